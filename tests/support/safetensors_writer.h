// Writes safetensors files, well-formed or not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace tokensieve::test {

// A file of any header and data; `header_bytes` is what its first eight bytes claim.
inline std::vector<std::byte> safetensors_bytes(const std::string& header, size_t data_bytes,
                                                uint64_t header_bytes) {
  std::vector<std::byte> file(8 + header.size() + data_bytes);
  std::memcpy(file.data(), &header_bytes, 8);
  std::memcpy(file.data() + 8, header.data(), header.size());
  return file;
}
inline std::vector<std::byte> safetensors_bytes(const std::string& header, size_t data_bytes) {
  return safetensors_bytes(header, data_bytes, header.size());
}

class SafeTensorsWriter {
 public:
  std::map<std::string, std::string> metadata;

  template <typename T>
  void add(const std::string& name, const char* dtype, const std::vector<int64_t>& shape,
           const std::vector<T>& values) {
    const size_t begin = data_.size();
    const char* bytes = reinterpret_cast<const char*>(values.data());
    data_.insert(data_.end(), bytes, bytes + values.size() * sizeof(T));
    std::string sizes;
    for (int64_t size : shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
    entries_ += ",\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + sizes +
                "],\"data_offsets\":[" + std::to_string(begin) + "," +
                std::to_string(data_.size()) + "]}";
  }

  void write(const std::string& path) const {
    std::string header = "{\"__metadata__\":{";
    const char* comma = "";
    for (const auto& [key, value] : metadata) {
      header += comma + ("\"" + key + "\":\"" + value + "\"");
      comma = ",";
    }
    header += "}" + entries_ + "}";
    const uint64_t size = header.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&size), 8);
    file << header;
    file.write(data_.data(), static_cast<std::streamsize>(data_.size()));
  }

 private:
  std::string entries_;
  std::vector<char> data_;
};

}  // namespace tokensieve::test
