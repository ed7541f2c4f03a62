// Rows of [batch, seq, head, dim] tensors.
#pragma once

#include <cstdint>

#include "cuda/params.h"

namespace tokensieve::cuda {

inline constexpr int kChunkBytes = 16;  // what a thread moves at once

// Elements from a tensor's first one to a row.
__device__ __forceinline__ int64_t row_offset(const Tensor& x, int batch, int head, int row) {
  return batch * x.batch_stride + head * x.head_stride + row * x.seq_stride;
}

}  // namespace tokensieve::cuda
