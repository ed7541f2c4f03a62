// Format: u64 little-endian header length, that many bytes of JSON, then the data. The header maps
// names to {"dtype", "shape", "data_offsets": [begin, end)} relative to the data, and the name
// __metadata__ to an object of strings. The tensors cover the data without holes or overlaps.
#include "verify/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/json_fields.h"

namespace tokensieve::verify {
namespace {

using Json = nlohmann::json;  // sorted: headers with very many keys

// Headers of real files are under 1 MB even for models of a thousand tensors.
constexpr uint64_t kMaxHeaderBytes = 16 << 20;
constexpr uint64_t kMaxFileBytes = uint64_t{16} << 30;
constexpr int64_t kMaxDimensions = 8;

struct DTypeSize {
  const char* name;
  int64_t bytes;
};
constexpr DTypeSize kDTypes[] = {{"BOOL", 1},    {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1},
                                 {"F8_E5M2", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
                                 {"BF16", 2},    {"I32", 4}, {"U32", 4}, {"F32", 4},
                                 {"F64", 8},     {"I64", 8}, {"U64", 8}};

// Hostile names must not flood the terminal or smuggle control codes into it.
std::string printable(const std::string& text, size_t most = 48) {
  std::string result;
  for (char c : text.substr(0, most)) result += c >= 0x20 && c < 0x7f ? c : '?';
  return result;
}

class Parser {
 public:
  Parser(const std::string& source_name, uint64_t data_bytes)
      : source_name_(source_name), data_bytes_(data_bytes) {}

  Status status;

  // Remembers the first error.
  void fail(const std::string& what) {
    if (status.ok()) {
      status = Status::error(StatusCode::kDataError, "%s: %s", source_name_.c_str(), what.c_str());
    }
  }

  Json parse_header(std::string_view text) {
    Result<Json> root = parse_json<Json>(text, "the header", JsonKeys::kUnique);
    if (!root.ok()) {
      fail(printable(root.status().message(), 200));
    } else if (!root->is_object()) {
      fail("the header is not a JSON object");
    }
    return root.ok() ? std::move(root.value()) : Json();
  }

  void read_metadata(const Json& value, std::map<std::string, std::string>& metadata) {
    if (!value.is_object()) return fail("__metadata__ is not an object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) {
        return fail("__metadata__." + printable(key) + " is not a string");
      }
      metadata[key] = text.get<std::string>();
    }
  }

  // Fills all but the bytes; returns the range in the data.
  std::pair<uint64_t, uint64_t> read_tensor(const std::string& name, const Json& value,
                                            SafeTensor& tensor) {
    const std::string where = "tensor \"" + printable(name) + "\": ";
    if (!value.is_object()) return fail(where + "is not an object"), kNoRange;
    for (const char* key : {"dtype", "shape", "data_offsets"}) {
      if (!value.contains(key)) return fail(where + key + " is missing"), kNoRange;
    }
    if (value.size() != 3) return fail(where + "has unknown keys"), kNoRange;
    const int64_t element = read_dtype(where, value["dtype"], tensor);
    const int64_t bytes = read_shape(where, value["shape"], element, tensor);
    if (!status.ok()) return kNoRange;
    return read_range(where, value["data_offsets"], bytes);
  }

 private:
  static constexpr std::pair<uint64_t, uint64_t> kNoRange = {0, 0};

  int64_t read_dtype(const std::string& where, const Json& value, SafeTensor& tensor) {
    if (!value.is_string()) return fail(where + "dtype is not a string"), 0;
    tensor.dtype = value.get<std::string>();
    for (const DTypeSize& known : kDTypes) {
      if (tensor.dtype == known.name) return known.bytes;
    }
    fail(where + "unknown dtype \"" + printable(tensor.dtype) + "\"");
    return 0;
  }

  // Bytes of the tensor.
  int64_t read_shape(const std::string& where, const Json& value, int64_t element,
                     SafeTensor& tensor) {
    if (!value.is_array() || value.size() > kMaxDimensions) {
      return fail(where + "shape is not an array of at most 8 dimensions"), 0;
    }
    int64_t bytes = element;
    for (const Json& dimension : value) {
      // is_number_unsigned: JSON integers that are negative, fractional or too large are not.
      if (!dimension.is_number_unsigned() || dimension.get<uint64_t>() > INT64_MAX) {
        return fail(where + "shape holds a dimension that is not an integer >= 0"), 0;
      }
      const int64_t size = static_cast<int64_t>(dimension.get<uint64_t>());
      if (__builtin_mul_overflow(bytes, size, &bytes)) {
        return fail(where + "the product of its shape overflows"), 0;
      }
      tensor.shape.push_back(size);
    }
    return bytes;
  }

  std::pair<uint64_t, uint64_t> read_range(const std::string& where, const Json& value,
                                           int64_t bytes) {
    if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() ||
        !value[1].is_number_unsigned()) {
      return fail(where + "data_offsets is not [begin, end]"), kNoRange;
    }
    const uint64_t begin = value[0].get<uint64_t>();
    const uint64_t end = value[1].get<uint64_t>();
    const std::string range =
        where + "data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "]";
    if (begin > end || end > data_bytes_) {
      return fail(range + " leave the file's " + std::to_string(data_bytes_) + " data bytes"),
             kNoRange;
    }
    if (end - begin != static_cast<uint64_t>(bytes)) {
      return fail(range + " hold " + std::to_string(end - begin) + " bytes; its shape needs " +
                  std::to_string(bytes)),
             kNoRange;
    }
    return {begin, end};
  }

  const std::string& source_name_;
  uint64_t data_bytes_;
};

// Tensors must follow one another from the first data byte to the last.
void check_cover(Parser& parser, std::vector<std::pair<uint64_t, uint64_t>> ranges,
                 uint64_t data_bytes) {
  std::sort(ranges.begin(), ranges.end());
  uint64_t position = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin < position) return parser.fail("tensors overlap at byte " + std::to_string(begin));
    if (begin > position) {
      return parser.fail("bytes " + std::to_string(position) + ".." + std::to_string(begin) +
                         " of the data belong to no tensor");
    }
    position = end;
  }
  if (position != data_bytes) {
    parser.fail("the data goes on for " + std::to_string(data_bytes - position) +
                " bytes after the last tensor");
  }
}

}  // namespace

Result<SafeTensors> SafeTensors::parse(std::vector<std::byte> file,
                                       const std::string& source_name) {
  SafeTensors result;
  result.source_name_ = source_name;
  result.file_ = std::move(file);
  const size_t size = result.file_.size();
  uint64_t header_bytes = 0;
  if (size >= sizeof(header_bytes)) std::memcpy(&header_bytes, result.file_.data(), 8);
  static_assert(std::endian::native == std::endian::little);
  if (size < 8 || header_bytes > kMaxHeaderBytes || header_bytes > size - 8) {
    return Status::error(StatusCode::kDataError,
                         "%s: not a safetensors file: %zu bytes, of which a header of %llu (at "
                         "most %llu); it may be truncated",
                         source_name.c_str(), size, (unsigned long long)header_bytes,
                         (unsigned long long)kMaxHeaderBytes);
  }
  const uint64_t data_bytes = size - 8 - header_bytes;
  const char* header = reinterpret_cast<const char*>(result.file_.data()) + 8;
  Parser parser(result.source_name_, data_bytes);
  const Json root = parser.parse_header({header, header_bytes});
  if (!parser.status.ok()) return parser.status;

  const std::span<const std::byte> data(result.file_.data() + 8 + header_bytes, data_bytes);
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, value] : root.items()) {
    if (name == "__metadata__") {
      parser.read_metadata(value, result.metadata_);
    } else {
      SafeTensor& tensor = result.tensors_[name];
      const auto range = parser.read_tensor(name, value, tensor);
      if (parser.status.ok()) {
        tensor.bytes = data.subspan(range.first, range.second - range.first);
        ranges.push_back(range);
      }
    }
    if (!parser.status.ok()) return parser.status;
  }
  check_cover(parser, std::move(ranges), data_bytes);
  if (!parser.status.ok()) return parser.status;
  return result;
}

Result<SafeTensors> SafeTensors::load(const std::string& path) {
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path, error);  // fails on anything but a file
  std::ifstream stream(path, std::ios::binary);
  if (error || !stream) {
    return Status::error(StatusCode::kNotFound, "cannot read %s: %s", path.c_str(),
                         error ? error.message().c_str() : "cannot be opened");
  }
  if (size > kMaxFileBytes) {
    return Status::error(StatusCode::kDataError, "%s is %llu bytes; at most %llu are read",
                         path.c_str(), (unsigned long long)size, (unsigned long long)kMaxFileBytes);
  }
  std::vector<std::byte> file(size);
  if (!stream.read(reinterpret_cast<char*>(file.data()), static_cast<std::streamsize>(size))) {
    return Status::error(StatusCode::kDataError, "%s ends after %lld of %llu bytes", path.c_str(),
                         (long long)stream.gcount(), (unsigned long long)size);
  }
  return parse(std::move(file), path);
}

Result<const SafeTensor*> SafeTensors::get(const std::string& name, const std::string& dtype,
                                           size_t dimensions) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return Status::error(StatusCode::kDataError, "%s: tensor \"%s\" is missing",
                         source_name_.c_str(), name.c_str());
  }
  const SafeTensor& tensor = found->second;
  if (tensor.dtype != dtype || tensor.shape.size() != dimensions) {
    return Status::error(StatusCode::kDataError,
                         "%s: tensor \"%s\" is %s with %zu dimensions; allowed: %s with %zu",
                         source_name_.c_str(), name.c_str(), tensor.dtype.c_str(),
                         tensor.shape.size(), dtype.c_str(), dimensions);
  }
  return &tensor;
}

}  // namespace tokensieve::verify
