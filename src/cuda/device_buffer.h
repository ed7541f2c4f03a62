// Device memory for programs that test or time the backend; the library itself allocates none.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>
#include <vector>

namespace tokensieve::cuda {

// An allocation; `ok` says whether it worked. Copies go through the default stream and wait.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes = 0) : bytes_(bytes) {
    if (bytes > 0 && cudaMalloc(&data_, bytes) != cudaSuccess) data_ = nullptr;
  }
  template <typename T>
  explicit DeviceBuffer(const std::vector<T>& host) : DeviceBuffer(host.size() * sizeof(T)) {
    upload(host.data());
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  bool ok() const { return data_ != nullptr || bytes_ == 0; }
  size_t bytes() const { return bytes_; }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

  bool upload(const void* host) {
    return cudaMemcpy(data_, host, bytes_, cudaMemcpyHostToDevice) == cudaSuccess;
  }
  bool download(void* host) const {
    return cudaMemcpy(host, data_, bytes_, cudaMemcpyDeviceToHost) == cudaSuccess;
  }
  template <typename T>
  std::vector<T> read() const {
    std::vector<T> host(bytes_ / sizeof(T));
    download(host.data());
    return host;
  }
  // 0xff: NaN in every float format.
  void fill(int byte) { cudaMemset(data_, byte, bytes_); }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tokensieve::cuda
