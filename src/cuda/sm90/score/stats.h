// Pass 1 of score: running max and sum of every window row per key range.
#pragma once

#include "cuda/sm90/score/tiles.h"

namespace tokensieve::cuda::sm90 {

// Running max and sum (base 2, max before `factor`) over the columns that this thread sees, of its
// rows lane / 4 and lane / 4 + 8.
struct RowStats {
  float max[2];
  float sum[2];

  __device__ __forceinline__ static RowStats none() {
    return {{ptx::negative_infinity(), ptx::negative_infinity()}, {0.0f, 0.0f}};
  }

  template <int kCount>
  __device__ __forceinline__ void add(const float (&s)[kCount], float factor) {
    float top[2] = {max[0], max[1]};
#pragma unroll
    for (int i = 0; i < kCount; ++i) top[i >> 1 & 1] = fmaxf(top[i >> 1 & 1], s[i]);
    float offset[2], part[2][2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // Nothing visible so far: any finite offset does.
      offset[r] = top[r] == ptx::negative_infinity() ? 0.0f : top[r] * factor;
      part[r][0] = sum[r] * ptx::exp2(fmaf(max[r], factor, -offset[r]));
      part[r][1] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      part[i >> 1 & 1][i & 1] += ptx::exp2(fmaf(s[i], factor, -offset[i >> 1 & 1]));
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      max[r] = top[r];
      sum[r] = part[r][0] + part[r][1];
    }
  }
};

// Columns behind a row's own position become -inf. `last` is the last visible column of row 0 of
// the thread's first row, counted from the tile's first key.
template <int kCount>
__device__ __forceinline__ void mask_window(float (&s)[kCount], int last) {
  const int first_column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int column = first_column + i / 4 * 8 + (i & 1);
    if (column > last + (i >> 1 & 1) * 8) s[i] = ptx::negative_infinity();
  }
}

// Merges the quad's stats of a row and writes them.
__device__ __forceinline__ void store_stats(const RowStats& stats, int half, float factor,
                                            float2* to) {
  const float own = stats.max[half] == ptx::negative_infinity() ? ptx::negative_infinity()
                                                           : stats.max[half] * factor;
  float top = fmaxf(own, __shfl_xor_sync(~0u, own, 1));
  top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
  const float offset = top == ptx::negative_infinity() ? 0.0f : top;
  float sum = stats.sum[half] * ptx::exp2(own - offset);
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  if (to != nullptr && threadIdx.x % 4 == 0) *to = make_float2(top, sum);
}

__device__ __forceinline__ float2* stats_row(const ScoreParams& params, int split, int batch,
                                             int head) {
  const int64_t row = (static_cast<int64_t>(split) * params.sequences.batch + batch) *
                          params.heads.num_q_heads +
                      head;
  return params.split_stats + row * params.obs_window;
}

// Writes what a warpgroup knows about its units.
template <class Traits, int kUnits>
__device__ __forceinline__ void store_units(const ScoreParams& params, const ScoreRows& rows,
                                            const ScoreWork& work, int group, int thread_row,
                                            int units, int units_per_head, float factor,
                                            const RowStats (&stats)[kUnits]) {
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    const int unit = group + i * Traits::kGroups;
    if (unit >= units) break;
    const int head = work.first_head + unit / units_per_head;
    float2* to = stats_row(params, work.split, work.batch, head);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = rows.first_row + unit % units_per_head * 64 + thread_row + half * 8;
      store_stats(stats[i], half, factor, row < params.obs_window ? to + row : nullptr);
    }
  }
}

// A unit is 64 window rows of a head; warpgroup g works on units g, g + 4, ...
template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    score_stats(const __grid_constant__ CUtensorMap k_map,
                const __grid_constant__ ScoreParams params,
                const __grid_constant__ ScoreRows rows) {
  constexpr int kTileK = Traits::kStatsTileK;
  using Shared = ScoreShared<Traits, kTileK>;
  constexpr int kUnits = Traits::kQTiles * 2 / Traits::kGroups;
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared& shared = *reinterpret_cast<Shared*>(raw);
  ptx::grid_dependency_wait();  // before cu_seqlens too
  ptx::grid_dependency_launch();
  const ScoreWork work = score_work(params, rows, false, kTileK);
  const int window_rows = min(params.obs_window - rows.first_row, rows.row_tiles * Traits::kTileQ);
  const int units_per_head = (window_rows + 63) / 64;
  const int units = units_per_head * work.heads;
  const int groups = min(units, Traits::kGroups);
  init_score_barriers(shared, groups * 4);

  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (group == Traits::kGroups) {
    if (threadIdx.x == Traits::kConsumerThreads) stream_keys(&k_map, work, shared);
    return;
  }
  load_window<Traits>(params, rows, work, shared);
  ptx::named_barrier_sync(kConsumerBarrier, Traits::kConsumerThreads);
  if (group >= groups) return;

  const Logits<Traits> logits(params.softmax);
  const int lane = threadIdx.x % 32;
  const int thread_row = threadIdx.x / 32 % 4 * 16 + lane / 4;
  RowStats stats[kUnits];
#pragma unroll
  for (int i = 0; i < kUnits; ++i) stats[i] = RowStats::none();
  // Position of window row 0 among the keys.
  const int first_position = work.where.seqlen_kv - params.obs_window;

  const int tiles = work.tile_end - work.tile_begin;
  for (int tile = 0; tile < tiles; ++tile) {
    const typename Shared::Step at(tile);
    ptx::mbarrier_wait(&shared.full[at.barrier], at.phase);
    const int first_key = (work.tile_begin + tile) * kTileK;
    const bool masked = first_key + kTileK > first_position + rows.first_row;
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const int unit = group + i * Traits::kGroups;
      if (unit >= units) break;
      const int half = unit % units_per_head;
      const int q_tile = unit / units_per_head * rows.row_tiles + half / 2;
      float s[kTileK / 2];
      multiply<Traits, Traits::kTileQ, kTileK>(s, shared.q[q_tile] + half % 2 * 64 * 64,
                                               shared.k[at.slot]);
      if (unit + Traits::kGroups >= units && lane == 0) {
        ptx::mbarrier_arrive(&shared.empty[at.slot]);
      }
      logits.transform(s);
      if (masked) {
        mask_window(s, first_position + rows.first_row + half * 64 + thread_row - first_key);
      }
      stats[i].add(s, logits.factor);
    }
  }
  store_units<Traits>(params, rows, work, group, thread_row, units, units_per_head, logits.factor,
                      stats);
}

}  // namespace tokensieve::cuda::sm90
