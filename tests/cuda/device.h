// Device memory, generated tensors and tensor maps for the GPU tests.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/params.h"

namespace tokensieve::cuda::test {

// Tests cannot go on after an error of the device.
#define CUDA_CHECK(call)                                                            \
  do {                                                                              \
    const cudaError_t error_ = (call);                                              \
    if (error_ != cudaSuccess) {                                                    \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call,                     \
                  cudaGetErrorString(error_));                                      \
      std::exit(2);                                                                 \
    }                                                                               \
  } while (0)

// Device memory, filled with NaN (every float and 16-bit pattern of ones is one).
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes > 0 ? bytes : 16) {
    CUDA_CHECK(cudaMalloc(&data_, bytes_));
    poison();
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void poison() { CUDA_CHECK(cudaMemset(data_, 0xff, bytes_)); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  template <typename T>
  std::vector<T> read() const {
    std::vector<T> host(bytes_ / sizeof(T));
    CUDA_CHECK(cudaMemcpy(host.data(), data_, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
  template <typename T>
  void write(const std::vector<T>& host) {
    CUDA_CHECK(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

// A [batch, seq, heads, dim] tensor with `pad` elements of NaN behind every seq row.
inline Tensor make_tensor(const Buffer& buffer, int64_t seq, int heads, int dim, int pad) {
  const int64_t seq_stride = static_cast<int64_t>(heads) * dim + pad;
  return {buffer.as<void>(), seq * seq_stride, seq_stride, dim};
}
inline size_t tensor_bytes(int64_t batch, int64_t seq, int heads, int dim, int pad) {
  return static_cast<size_t>(batch * seq * (static_cast<int64_t>(heads) * dim + pad)) * 2;
}

__device__ inline uint32_t mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return static_cast<uint32_t>(x ^ (x >> 33));
}

// Normal values times `scale`.
template <typename Element>
__global__ void fill_kernel(Tensor x, int64_t seq, int heads, int dim, int64_t count, float scale,
                            uint64_t seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t d = i % dim;
    const int64_t h = i / dim % heads;
    const int64_t s = i / dim / heads % seq;
    const int64_t b = i / dim / heads / seq;
    const float u = (mix(seed + 2 * i) + 1.0f) * 2.3283064e-10f;
    const float v = mix(seed + 2 * i + 1) * 2.3283064e-10f;
    const float normal = sqrtf(-2.0f * logf(fminf(u, 1.0f))) * cospif(2.0f * v);
    static_cast<Element*>(
        x.data)[b * x.batch_stride + s * x.seq_stride + h * x.head_stride + d] =
        static_cast<Element>(normal * scale);
  }
}
inline void fill(const Tensor& x, int64_t batch, int64_t seq, int heads, int dim, bool bf16,
                 float scale, uint64_t seed) {
  const int64_t count = batch * seq * heads * dim;
  if (bf16) {
    fill_kernel<__nv_bfloat16><<<1024, 256>>>(x, seq, heads, dim, count, scale, seed << 40);
  } else {
    fill_kernel<__half><<<1024, 256>>>(x, seq, heads, dim, count, scale, seed << 40);
  }
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace tokensieve::cuda::test
