// Products of 128 rows that stay in shared memory with tiles of 128 rows that are streamed: what
// the probe, the maps and the pooled energies are made of. Rows come by 16-byte copies, because
// queries lie where their indices say.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/blocks/tokens.h"
#include "cuda/device/logits.h"
#include "cuda/ptx/copy.h"
#include "cuda/sm90/score/tiles.h"

namespace tokensieve::cuda::sm90 {

template <typename Element_, int kHeadDim_>
struct ProductTraits {
  using Element = Element_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kThreads = 256;  // two warpgroups of 64 rows
  static constexpr int kTileBytes = kBlock * kHeadDim * static_cast<int>(sizeof(Element));
  static constexpr int kElements = kBlock * kHeadDim;
  static constexpr int kCtas = kHeadDim == 256 ? 1 : 2;  // per multiprocessor
};
inline constexpr int kAccumulators = 64;  // of 128 columns

// Starts copying 128 rows into a tile; `at` gives a row's address, null: zeros.
template <class Traits, class Address>
__device__ __forceinline__ void start_rows(typename Traits::Element* tile, const void* any,
                                           const Address& at) {
  constexpr int kChunks = Traits::kHeadDim / 8;
  constexpr int kAtOnce = Traits::kThreads / kChunks;
  const int chunk = threadIdx.x % kChunks;
  const uint32_t to = ptx::shared_address(tile);
#pragma unroll 4
  for (int row = threadIdx.x / kChunks; row < kBlock; row += kAtOnce) {
    const char* from = at(row);
    ptx::copy_async_16(to + swizzled(row, chunk, kBlock),
                       from != nullptr ? from + chunk * kChunkBytes : any, from != nullptr);
  }
}

// Waits for all copies of the CTA, for every thread and for wgmma.
__device__ __forceinline__ void finish_rows() {
  ptx::copy_async_wait_all();
  ptx::fence_async_proxy();
  __syncthreads();
}

// s = rows of this thread's warpgroup times `columns`, which may be overwritten afterwards.
template <class Traits>
__device__ __forceinline__ void multiply_rows(float (&s)[kAccumulators],
                                              const typename Traits::Element* rows,
                                              const typename Traits::Element* columns) {
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  multiply<Traits, kBlock, kBlock>(s, rows + group * 64 * 64, columns);
  __syncthreads();
}

// Row of accumulators i with (i & 2) == 0; the others are 8 rows on. And column of accumulator 0.
__device__ __forceinline__ int own_row() { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4; }
__device__ __forceinline__ int own_column() { return threadIdx.x % 4 * 2; }
__device__ __forceinline__ constexpr int column_of(int i) { return i / 4 * 8 + (i & 1); }

}  // namespace tokensieve::cuda::sm90
