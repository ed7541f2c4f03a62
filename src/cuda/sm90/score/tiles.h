// What both passes of score do with tiles: bring in K and Q, multiply, cap logits.
#pragma once

#include "cuda/device/logits.h"
#include "cuda/device/rows.h"
#include "cuda/ptx/copy.h"
#include "cuda/sm90/key_stream.h"
#include "cuda/sm90/ptx/wgmma.h"
#include "cuda/sm90/score/traits.h"
#include "cuda/sm90/swizzle.h"

namespace tokensieve::cuda::sm90 {

inline constexpr int kConsumerBarrier = 1;

// Logits of a tile in base 2 are transform(s) * factor.
template <class Traits>
struct Logits {
  float factor;
  float exponent_scale;  // softcap

  __device__ __forceinline__ explicit Logits(const Softmax& softmax)
      : factor(kLog2e * (Traits::kSoftcap ? softmax.softcap : softmax.sm_scale)),
        exponent_scale(Traits::kSoftcap ? cap_exponent_scale(softmax) : 0.0f) {}

  template <int kCount>
  __device__ __forceinline__ void transform(float (&s)[kCount]) const {
    if constexpr (Traits::kSoftcap) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) s[i] = cap_tanh(s[i], exponent_scale);
    }
  }
};

template <class Shared>
__device__ __forceinline__ void init_score_barriers(Shared& shared, int reading_warps) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared::kFull; ++i) ptx::mbarrier_init(&shared.full[i], 1);
    for (int i = 0; i < Shared::kStages; ++i) {
      ptx::mbarrier_init(&shared.empty[i], reading_warps);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
}

// Producer, one thread.
template <class Shared>
__device__ __forceinline__ void stream_keys(const CUtensorMap* map, const ScoreWork& work,
                                            Shared& shared) {
  ptx::prefetch_tensor_map(map);
  const KeySource source = {map, work.where.kv_row, work.kv_head, work.where.axis};
  const int tiles = work.tile_end - work.tile_begin;
  for (int tile = 0; tile < tiles; ++tile) {
    const typename Shared::Step at(tile);
    ptx::mbarrier_wait(&shared.empty[at.slot], (tile / Shared::kStages & 1) ^ 1);
    load_tile<Shared>(shared.k[at.slot], source.k_map, &shared.full[at.barrier], source,
                      source.row + (work.tile_begin + tile) * Shared::kTileK);
  }
}

// Consumers: the window rows of the CTA's heads; rows outside the window are zero.
template <class Traits, class Shared>
__device__ __forceinline__ void load_window(const ScoreParams& params, const ScoreRows& rows,
                                            const ScoreWork& work, Shared& shared) {
  constexpr int kElementBytes = sizeof(typename Traits::Element);
  constexpr int kLanes = Traits::kRowChunks;
  constexpr int kRows = Traits::kConsumerThreads / kLanes;
  const int chunk = threadIdx.x % kLanes;
  const char* q = static_cast<const char*>(params.q.data) + chunk * kChunkBytes +
                  kElementBytes * row_offset(params.q, work.where.axis, 0, work.where.q_row);
  for (int tile = 0; tile < work.heads * rows.row_tiles; ++tile) {
    const int64_t head = work.first_head + tile / rows.row_tiles;
    const char* from = q + kElementBytes * head * params.q.head_stride;
    const int first = rows.first_row + tile % rows.row_tiles * Traits::kTileQ;
    const uint32_t to = ptx::shared_address(shared.q[tile]);
#pragma unroll 4
    for (int row = threadIdx.x / kLanes; row < Traits::kTileQ; row += kRows) {
      const int64_t query = work.first_query + first + row;
      const bool valid = first + row < params.obs_window && query >= 0;
      ptx::copy_async_16(to + swizzled(row, chunk, Traits::kTileQ),
                         from + (valid ? kElementBytes * query * params.q.seq_stride : 0), valid);
    }
  }
  ptx::copy_async_wait_all();
  ptx::fence_async_proxy();
}

// s = A B^T of 64 rows of A and 2 * kCount rows of B; kRowsA, kRowsB: rows of their panels.
template <class Traits, int kRowsA, int kRowsB, int kCount>
__device__ __forceinline__ void multiply(float (&s)[kCount], const void* a, const void* b) {
  using Mma = ptx::Wgmma<typename Traits::Element, 2 * kCount>;
  const uint64_t from_a = ptx::descriptor(ptx::shared_address(a), 16);
  const uint64_t from_b = ptx::descriptor(ptx::shared_address(b), 16);
  ptx::wgmma_fence();
  Mma::template ss<0>(s, from_a, from_b);
#pragma unroll
  for (int k = 1; k < Traits::kHeadDim / 16; ++k) {
    const int step = k % 4 * 32;
    Mma::template ss<1>(s, from_a + (((k / 4) * kRowsA * 128 + step) >> 4),
                        from_b + (((k / 4) * kRowsB * 128 + step) >> 4));
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::keep_in_order(s);
}

}  // namespace tokensieve::cuda::sm90
