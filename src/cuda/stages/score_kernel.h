// Stage score: mean over the window of the causal softmax, taken at the prefix.
//
// A column mean needs 1/sum of every query before it can add over queries, so K is read twice:
//   pass 1 (score_stats): S = Q K^T, running max and sum of every window row per key range;
//   pass 2 (score_mean): S = K Q^T, so that the sum over queries stays inside a lane quad:
//     token_score[key] = sum over rows of exp2(s - log2(sum of the row) - max - log2(W)).
// One CTA keeps the window rows of a few q heads of one kv head and streams a range of its keys.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/common/online_softmax.h"
#include "cuda/ptx/barrier.h"
#include "cuda/ptx/copy.h"
#include "cuda/ptx/math.h"
#include "cuda/ptx/wgmma.h"
#include "cuda/stages/score_traits.h"

namespace tokensieve::cuda {

inline constexpr int kConsumerBarrier = 1;

// Logits in base 2 are transform(s) * factor.
template <class Traits>
struct Logits {
  float factor;
  float inner;  // softcap: 2 log2(e) sm_scale / softcap

  __device__ __forceinline__ explicit Logits(const Softmax& softmax)
      : factor(kLog2e * (Traits::kSoftcap ? softmax.softcap : softmax.sm_scale)),
        inner(Traits::kSoftcap ? 2.0f * kLog2e * softmax.sm_scale / softmax.softcap : 0.0f) {}

  // tanh(x) = 1 - 2 / (exp(2x) + 1)
  template <int kCount>
  __device__ __forceinline__ void transform(float (&s)[kCount]) const {
    if constexpr (Traits::kSoftcap) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        s[i] = fmaf(-2.0f, ptx::reciprocal(ptx::exp2(s[i] * inner) + 1.0f), 1.0f);
      }
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

// Where tile `tile` of a CTA's range lies, and which phase of its barrier it completes.
template <class Shared>
struct TileSlot {
  int slot;
  int barrier;
  uint32_t phase;
  __device__ __forceinline__ explicit TileSlot(int tile)
      : slot(tile % Shared::kStages),
        barrier(tile % Shared::kFull),
        phase(tile / Shared::kFull & 1) {}
};

// Producer, one thread. The map's boxes are 64 x 64.
template <class Traits, class Shared>
__device__ __forceinline__ void stream_keys(const CUtensorMap* map, const ScoreWork& work,
                                            Shared& shared) {
  ptx::prefetch_tensor_map(map);
  const int tiles = work.tile_end - work.tile_begin;
  for (int tile = 0; tile < tiles; ++tile) {
    const TileSlot<Shared> at(tile);
    ptx::mbarrier_wait(&shared.empty[at.slot], (tile / Shared::kStages & 1) ^ 1);
    uint64_t* full = &shared.full[at.barrier];
    ptx::mbarrier_expect_tx(full, Shared::kTileBytes);
    const int first_row = work.where.kv_row + (work.tile_begin + tile) * Shared::kTileK;
#pragma unroll
    for (int panel = 0; panel < Traits::kPanels; ++panel) {
#pragma unroll
      for (int row = 0; row < Shared::kTileK; row += 64) {
        ptx::tma_load_4d(shared.k[at.slot] + (panel * Shared::kTileK + row) * 64, map, full,
                         panel * 64, first_row + row, work.kv_head, work.where.axis);
      }
    }
  }
}

// Consumers: the window rows of the CTA's heads; rows outside the window are zero.
template <class Traits, class Shared>
__device__ __forceinline__ void load_window(const ScoreParams& params, const ScoreRows& rows,
                                            const ScoreWork& work, Shared& shared) {
  constexpr int kLanes = Traits::kHeadDim / 8;  // 16-byte chunks of a row
  constexpr int kRows = Traits::kConsumerThreads / kLanes;
  const int chunk = threadIdx.x % kLanes;
  const char* q = static_cast<const char*>(params.q.data) + chunk * 16 +
                  2 * (work.where.axis * params.q.batch_stride +
                       work.where.q_row * params.q.seq_stride);
  for (int tile = 0; tile < work.heads * rows.row_tiles; ++tile) {
    const int64_t head = work.first_head + tile / rows.row_tiles;
    const char* from = q + 2 * head * params.q.head_stride;
    const int first = rows.first_row + tile % rows.row_tiles * Traits::kTileQ;
    const uint32_t to =
        ptx::shared_address(shared.q[tile]) + (chunk >> 3) * (Traits::kTileQ * 128);
#pragma unroll 4
    for (int row = threadIdx.x / kLanes; row < Traits::kTileQ; row += kRows) {
      const int64_t query = work.window + first + row;
      const bool valid = first + row < params.obs_window && query >= 0;
      ptx::copy_async_16(to + row * 128 + (((chunk & 7) ^ (row & 7)) << 4),
                         from + (valid ? 2 * query * params.q.seq_stride : 0), valid);
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

// Running max and sum (base 2, max before `factor`) over the columns that this thread sees, of its
// rows lane / 4 and lane / 4 + 8.
struct RowStats {
  float max[2];
  float sum[2];

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

// Pass 1. A unit is 64 window rows of a head; warpgroup g works on units g, g + 4, ...
template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    score_stats(const __grid_constant__ CUtensorMap k_map,
                const __grid_constant__ ScoreParams params, const __grid_constant__ ScoreRows rows) {
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
    if (threadIdx.x == Traits::kConsumerThreads) stream_keys<Traits>(&k_map, work, shared);
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
  for (int i = 0; i < kUnits; ++i) {
    stats[i] = {{ptx::negative_infinity(), ptx::negative_infinity()}, {0.0f, 0.0f}};
  }
  // Position of window row 0 among the keys.
  const int first_position = work.where.seqlen_kv - params.obs_window;

  const int tiles = work.tile_end - work.tile_begin;
  for (int tile = 0; tile < tiles; ++tile) {
    const TileSlot<Shared> at(tile);
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
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    const int unit = group + i * Traits::kGroups;
    if (unit >= units) break;
    const int head = work.first_head + unit / units_per_head;
    float2* to = stats_row(params, work.split, work.batch, head);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = rows.first_row + unit % units_per_head * 64 + thread_row + half * 8;
      store_stats(stats[i], half, logits.factor, row < params.obs_window ? to + row : nullptr);
    }
  }
}

// log2 of a window row's softmax denominator times W: exp2(s - weight) is its share of the mean.
__device__ __forceinline__ float row_weight(const ScoreParams& params, const ScoreWork& work,
                                            int head, int row) {
  float max = ptx::negative_infinity();
  float sum = 0.0f;
  if (params.softmax.sink_logits != nullptr) {
    max = params.softmax.sink_logits[head] * kLog2e;
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
  const int prefix_len = work.where.seqlen_kv - params.suffix;
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
    if (threadIdx.x == Traits::kConsumerThreads) stream_keys<Traits>(&k_map, work, shared);
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
    const TileSlot<Shared> at(tile);
    ptx::mbarrier_wait(&shared.full[at.barrier], at.phase);
    const int key = (work.tile_begin + tile) * 64 + thread_key;
    if (narrow) {
      mean_of_keys<Traits, 32>(params, rows, work, shared, at.slot, key, logits);
    } else {
      mean_of_keys<Traits, 64>(params, rows, work, shared, at.slot, key, logits);
    }
  }
}

template <class Traits>
cudaError_t launch_score(const ScoreParams& params, const CUtensorMap& k_map,
                         cudaStream_t stream) {
  constexpr size_t kStatsBytes = sizeof(ScoreShared<Traits, Traits::kStatsTileK>);
  constexpr size_t kMeanBytes = sizeof(ScoreShared<Traits, 64>);
  static_assert(kStatsBytes <= 227 * 1024 && kMeanBytes <= 227 * 1024);
  constexpr int kMaxRows = Traits::kQTiles * Traits::kTileQ;
  const int group_size = params.heads.num_q_heads / params.heads.num_kv_heads;

  // All rows of the window before the first mean: one round unless head_dim 256 has > 256 rows.
  for (const bool mean : {false, true}) {
    for (int first = 0; first < params.obs_window; first += kMaxRows) {
      const int left = params.obs_window - first;
      ScoreRows rows;
      rows.first_row = first;
      rows.row_tiles = ((left < kMaxRows ? left : kMaxRows) + Traits::kTileQ - 1) / Traits::kTileQ;
      rows.heads = Traits::kQTiles / rows.row_tiles;
      const auto groups_of = [&](int heads) { return (group_size + heads - 1) / heads; };
      const int64_t ctas_per_group =
          int64_t{params.splits} * params.heads.num_kv_heads * params.sequences.batch;
      while (rows.heads > 1 &&
             ctas_per_group * groups_of((rows.heads + 1) / 2) <= params.max_ctas) {
        rows.heads = (rows.heads + 1) / 2;
      }
      rows.groups = groups_of(rows.heads);
      rows.accumulate = first > 0;
      LaunchShape shape;
      shape.grid = dim3(params.splits, params.heads.num_kv_heads * rows.groups,
                        params.sequences.batch);
      shape.threads = Traits::kThreads;
      shape.shared_bytes = mean ? kMeanBytes : kStatsBytes;
      const cudaError_t error =
          mean ? launch(score_mean<Traits>, shape, stream, k_map, params, rows)
               : launch(score_stats<Traits>, shape, stream, k_map, params, rows);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

// Both kernels of one element type and head_dim, softcap or not; score_*.cu hold one each.
template <typename Element, int kHeadDim>
cudaError_t score_instance(const ScoreParams& params, const CUtensorMap& k_map,
                           cudaStream_t stream);

}  // namespace tokensieve::cuda
