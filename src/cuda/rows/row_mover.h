// What the public compact and scatter share: rows of any [batch, seq, head, dim] tensor by a set's
// indices.
//
// Both need indices and counts only and leave dense sequences alone. Rows are multiples of 16
// bytes.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/device/rows.h"
#include "cuda/device/sequence.h"
#include "cuda/ptx/barrier.h"

namespace tokensieve::cuda {

inline constexpr int kRowThreads = 256;
inline constexpr int kRowTokens = 64;  // rows of a CTA
inline constexpr int kMovedBytes = 2;  // of an element: strides count 16-bit ones

struct RowsParams {
  Sequences sequences;
  Selection selection;
  const int64_t* count;  // [batch]
  Tensor full;     // [batch, seqlen_kv, full_heads, dim]
  Tensor compact;  // [batch, capacity, compact_heads, dim]
  int32_t full_heads;
  int32_t compact_heads;
  int32_t row_chunks;  // of 16 bytes
};

__device__ __forceinline__ char* head_rows(const Tensor& x, int64_t batch, int64_t row,
                                           int64_t head) {
  return static_cast<char*>(x.data) +
         kMovedBytes * (batch * x.batch_stride + row * x.seq_stride + head * x.head_stride);
}

__device__ __forceinline__ const int32_t* set_indices(const RowsParams& params, int batch,
                                                      int head) {
  const int set = head * params.selection.num_sets / params.compact_heads;
  return params.selection.indices +
         (static_cast<int64_t>(batch) * params.selection.num_sets + set) *
             params.selection.capacity;
}

inline LaunchShape rows_shape(const RowsParams& params) {
  LaunchShape shape;
  shape.grid = dim3((params.sequences.seqlen_kv + kRowTokens - 1) / kRowTokens,
                    params.compact_heads, params.sequences.batch);
  shape.threads = kRowThreads;
  return shape;
}

}  // namespace tokensieve::cuda
