// Pass 2 of score: the mean over the window of every key's share.
#pragma once

#include "cuda/sm90/score/stats.h"

namespace tokensieve::cuda::sm90 {

// log2 of a window row's softmax denominator times W: exp2(s - weight) is its share of the mean.
__device__ __forceinline__ float row_weight(const ScoreParams& params, const ScoreWork& work,
                                            int head, int row) {
  float max = ptx::negative_infinity();
  float sum = 0.0f;
  if (params.softmax.sink_mass != nullptr) {
    max = params.softmax.sink_mass[head] * kLog2e;
    sum = 1.0f;
  }
  constexpr int kAtOnce = 8;
  for (int first = 0; first < params.splits; first += kAtOnce) {
    float2 parts[kAtOnce];
    float top = max;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      parts[i] = first + i < params.splits
                     ? stats_row(params, first + i, work.batch, head)[row]
                     : make_float2(ptx::negative_infinity(), 0.0f);
      top = fmaxf(top, parts[i].x);
    }
    const float offset = top == ptx::negative_infinity() ? 0.0f : top;
    sum *= ptx::exp2(max - offset);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) sum += parts[i].y * ptx::exp2(parts[i].x - offset);
    max = top;
  }
  return max + log2f(sum) + log2f(static_cast<float>(params.obs_window));
}

// Sums over a thread's queries of exp2(s - weight), for its keys lane / 4 and lane / 4 + 8.
template <int kCount>
__device__ __forceinline__ float2 add_columns(const float (&s)[kCount], const float* weight,
                                              float factor, float2 sum) {
  const float* own = weight + threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    const float2 w = *reinterpret_cast<const float2*>(own + i / 4 * 8);
    sum.x += ptx::exp2(fmaf(s[i], factor, -w.x)) + ptx::exp2(fmaf(s[i + 1], factor, -w.y));
    sum.y += ptx::exp2(fmaf(s[i + 2], factor, -w.x)) + ptx::exp2(fmaf(s[i + 3], factor, -w.y));
  }
  return sum;
}

// A warpgroup's 64 keys against all window rows, 2 * kCount of each Q tile. `empty`: arrived at
// after the last product.
template <class Traits, int kCount, class Shared>
__device__ __forceinline__ void mean_of_keys(const ScoreParams& params, const ScoreRows& rows,
                                             const ScoreWork& work, Shared& shared, int slot,
                                             int key, const Logits<Traits>& logits) {
  const int lane = threadIdx.x % 32;
  const int prefix_len = work.where.seqlen_kv - suffix_of(params.suffix, work.where);
  const int q_tiles = work.heads * rows.row_tiles;
  float2 sum = {0.0f, 0.0f};
  for (int q_tile = 0; q_tile < q_tiles; ++q_tile) {
    float s[kCount];
    multiply<Traits, 64, Traits::kTileQ>(s, shared.k[slot], shared.q[q_tile]);
    if (q_tile == q_tiles - 1 && lane == 0) ptx::mbarrier_arrive(&shared.empty[slot]);
    logits.transform(s);
    sum = add_columns(s, shared.weight + q_tile * Traits::kTileQ, logits.factor, sum);
    if ((q_tile + 1) % rows.row_tiles != 0) continue;
    sum.x += __shfl_xor_sync(~0u, sum.x, 1);
    sum.y += __shfl_xor_sync(~0u, sum.y, 1);
    sum.x += __shfl_xor_sync(~0u, sum.x, 2);
    sum.y += __shfl_xor_sync(~0u, sum.y, 2);
    const int64_t head = work.first_head + q_tile / rows.row_tiles;
    float* to = params.token_score + work.batch * params.score_batch_stride +
                head * params.prefix_stride + key;
    if (lane % 4 == 0 && key < prefix_len) *to = rows.accumulate ? *to + sum.x : sum.x;
    if (lane % 4 == 1 && key + 8 < prefix_len) to[8] = rows.accumulate ? to[8] + sum.y : sum.y;
    sum = {0.0f, 0.0f};
  }
}

// Pass 2. Warpgroup g works on key tiles g, g + 4, ... of the CTA's range.
template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    score_mean(const __grid_constant__ CUtensorMap k_map,
               const __grid_constant__ ScoreParams params, const __grid_constant__ ScoreRows rows) {
  using Shared = ScoreShared<Traits, 64>;
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared& shared = *reinterpret_cast<Shared*>(raw);
  ptx::grid_dependency_launch();
  const ScoreWork work = score_work(params, rows, true, 64);
  init_score_barriers(shared, 4);

  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (group == Traits::kGroups) {
    if (threadIdx.x == Traits::kConsumerThreads) stream_keys(&k_map, work, shared);
    return;
  }
  load_window<Traits>(params, rows, work, shared);
  ptx::grid_dependency_wait();  // the stats; q and k were finished before pass 1 started
  const int q_tiles = work.heads * rows.row_tiles;
  for (int i = threadIdx.x; i < q_tiles * Traits::kTileQ; i += Traits::kConsumerThreads) {
    const int tile = i / Traits::kTileQ;
    const int row = rows.first_row + tile % rows.row_tiles * Traits::kTileQ + i % Traits::kTileQ;
    shared.weight[i] = row < params.obs_window
                           ? row_weight(params, work, work.first_head + tile / rows.row_tiles, row)
                           : -ptx::negative_infinity();
  }
  ptx::named_barrier_sync(kConsumerBarrier, Traits::kConsumerThreads);

  const Logits<Traits> logits(params.softmax);
  const int thread_key = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
  const bool narrow = params.obs_window - rows.first_row <= 64;
  const int tiles = work.tile_end - work.tile_begin;
  for (int tile = group; tile < tiles; tile += Traits::kGroups) {
    const typename Shared::Step at(tile);
    ptx::mbarrier_wait(&shared.full[at.barrier], at.phase);
    const int key = (work.tile_begin + tile) * 64 + thread_key;
    if (narrow) {
      mean_of_keys<Traits, 32>(params, rows, work, shared, at.slot, key, logits);
    } else {
      mean_of_keys<Traits, 64>(params, rows, work, shared, at.slot, key, logits);
    }
  }
}

}  // namespace tokensieve::cuda::sm90
