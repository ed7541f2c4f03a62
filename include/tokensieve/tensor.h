// TensorView: a pointer with its dtype, shape and strides. It owns nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "tokensieve/export.h"

namespace tokensieve {

enum class DType : int32_t { kF32 = 0, kF16 = 1, kBF16 = 2 };

// Bytes of an element.
constexpr size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kF32: return 4;
    case DType::kF16: return 2;
    case DType::kBF16: return 2;
  }
  return 1;  // no dtype: calls refuse it, but may ask for its alignment first
}
TOKENSIEVE_API const char* dtype_name(DType dtype);

// Shape and strides are always in the order [batch, seq, head, dim], whatever the memory layout;
// strides count elements. The last stride must be 1. Inputs are read only, although `data` is not
// const (as in DLPack).
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::array<int64_t, 4> shape = {0, 0, 0, 0};
  std::array<int64_t, 4> strides = {0, 0, 0, 0};
};

// Contiguous [batch, seq, head, dim].
inline TensorView bshd(const void* data, DType dtype, int64_t batch, int64_t seq, int64_t heads,
                       int64_t dim) {
  return {const_cast<void*>(data),
          dtype,
          {batch, seq, heads, dim},
          {seq * heads * dim, heads * dim, dim, 1}};
}

// Contiguous [batch, head, seq, dim].
inline TensorView bhsd(const void* data, DType dtype, int64_t batch, int64_t seq, int64_t heads,
                       int64_t dim) {
  return {const_cast<void*>(data),
          dtype,
          {batch, seq, heads, dim},
          {heads * seq * dim, dim, seq * dim, 1}};
}

}  // namespace tokensieve
