// kAntidiagonal: 128 row groups against all keys in chunks of 256 groups. Of a row group it keeps
// the sum over each key tile, relative to the maximum so far, in scratch of the CTA.
#pragma once

#include "cuda/blocks/rules.h"
#include "cuda/blocks/tokens.h"
#include "cuda/device/logits.h"
#include "cuda/ptx/copy.h"
#include "cuda/sm90/ptx/mbarrier.h"
#include "cuda/sm90/ptx/wgmma.h"
#include "cuda/sm90/swizzle.h"

namespace tokensieve::cuda::sm90 {

inline constexpr int kGroupThreads = 256;  // two warpgroups of 64 row groups
inline constexpr int kGroupWarps = kGroupThreads / 32;
inline constexpr int kRowGroups = 128;
inline constexpr int kKeyGroups = 256;  // of a chunk
inline constexpr int kStepStages = 4;
inline constexpr int kStepsAhead = kStepStages - 2;  // steps that are loaded before their turn
inline constexpr int kStepColumns = 64;           // columns of a step
inline constexpr int kStepBytes = kStepColumns * 2;
inline constexpr int kSums = kKeyGroups / 2;  // accumulators of a thread

template <typename T, int kStride_>
struct GroupTraits {
  using Element = T;
  static constexpr int kStride = kStride_;
  static constexpr int kTileGroups = kBlock / kStride;           // of a key or row tile
  static constexpr int kChunkTiles = kKeyGroups / kTileGroups;
};

template <class Traits>
struct GroupShared {
  using Element = typename Traits::Element;
  alignas(1024) Element q[kStepStages][kRowGroups * kStepColumns];
  alignas(1024) Element k[kStepStages][kKeyGroups * kStepColumns];
  int32_t q_rows[kRowGroups * Traits::kStride];  // of the groups' queries, -1: none
  float top[kRowGroups];   // base 2
  float share[kRowGroups];  // 1 / sum
};

// 128 row groups of a head, and this CTA's scratch.
struct GroupWork {
  HeadTokens tokens;
  RowSource q, keys;
  int64_t first_group;
  int groups;   // that there are
  int chunks;   // of keys that they see
  int panels;   // of head_dim
  float* sums;  // [128, key_tiles]
  float* tops;  // [128, top_stride]
  int key_tiles, top_stride;
};

template <class Traits>
__device__ __forceinline__ GroupWork group_work(const EstimateParams& params, int batch, int head,
                                                int64_t block, int head_dim) {
  GroupWork work;
  work.tokens = head_tokens(params, batch, head);
  work.q = q_source(params, work.tokens);
  work.keys = cuda::key_source(params, work.tokens);
  const TileGrid& grid = work.tokens.grid;
  work.first_group = block * kRowGroups;
  const int64_t left = row_groups(grid, Traits::kStride) - work.first_group;
  work.groups = static_cast<int>(max(int64_t{0}, min(int64_t{kRowGroups}, left)));
  const int64_t seen =
      work.groups > 0
          ? seen_groups(grid, work.first_group + work.groups - 1, Traits::kStride)
          : 0;
  work.chunks = static_cast<int>((seen + kKeyGroups - 1) / kKeyGroups);
  work.panels = head_dim / kStepColumns;
  work.key_tiles = params.key_tiles;
  work.top_stride = top_stride(params.key_tiles);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowGroups;
  work.sums = params.scratch.sums + row * work.key_tiles;
  work.tops = params.scratch.tops + row * work.top_stride;
  return work;
}

template <class Traits>
__device__ __forceinline__ void find_queries(const GroupWork& work, GroupShared<Traits>& shared) {
  const TileGrid& grid = work.tokens.grid;
  const int64_t first = grid.first_row + work.first_group * Traits::kStride;
  for (int i = threadIdx.x; i < kRowGroups * Traits::kStride; i += kGroupThreads) {
    shared.q_rows[i] =
        first + i < grid.keys ? static_cast<int32_t>(work.tokens.q_row(first + i)) : -1;
  }
  __syncthreads();
}

// Starts the copies of step `at`: 64 columns of query stride - 1 - i and key i of every group.
template <class Traits>
__device__ __forceinline__ void start_step(const GroupWork& work, int at,
                                           GroupShared<Traits>& shared) {
  constexpr int kAtOnce = kGroupThreads / 8;
  const int steps = Traits::kStride * work.panels;
  if (at < work.chunks * steps) {
    const int i = at % steps / work.panels;
    const int64_t column = at % work.panels * kStepBytes;
    const int64_t first_key =
        static_cast<int64_t>(at / steps) * kKeyGroups * Traits::kStride + i;
    const int chunk = threadIdx.x % 8;
    const uint32_t q = ptx::shared_address(shared.q[at % kStepStages]);
    const uint32_t k = ptx::shared_address(shared.k[at % kStepStages]);
    const char* from = work.q.first + column + chunk * kChunkBytes;
#pragma unroll
    for (int n = 0; n < kRowGroups / kAtOnce; ++n) {
      const int group = threadIdx.x / 8 + n * kAtOnce;
      const int row = shared.q_rows[group * Traits::kStride + Traits::kStride - 1 - i];
      ptx::copy_async_16(q + swizzled(group, chunk, kRowGroups),
                         from + max(row, 0) * work.q.stride, row >= 0);
    }
    from = work.keys.first + column + chunk * kChunkBytes;
#pragma unroll
    for (int n = 0; n < kKeyGroups / kAtOnce; ++n) {
      const int group = threadIdx.x / 8 + n * kAtOnce;
      const int64_t key = first_key + group * Traits::kStride;
      const bool valid = key < work.tokens.grid.keys;
      ptx::copy_async_16(k + swizzled(group, chunk, kKeyGroups),
                         from + (valid ? key : 0) * work.keys.stride, valid);
    }
  }
  ptx::copy_async_commit();
}

// s += a step's product.
template <class Traits>
__device__ __forceinline__ void add_step(const GroupShared<Traits>& shared, int slot,
                                         float (&s)[kSums]) {
  using Mma = ptx::Wgmma<typename Traits::Element, kKeyGroups>;
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  const uint64_t a =
      ptx::descriptor(ptx::shared_address(shared.q[slot] + group * 64 * kStepColumns), 16);
  const uint64_t b = ptx::descriptor(ptx::shared_address(shared.k[slot]), 16);
  ptx::wgmma_fence();
#pragma unroll
  for (int i = 0; i < kStepColumns / 16; ++i) Mma::template ss<1>(s, a + 2 * i, b + 2 * i);
  ptx::wgmma_commit();
}

// A thread's two row groups: lane / 4 and 8 on.
struct GroupRows {
  int row;
  int64_t seen[2];  // key groups
  float top[2];     // base 2
  float sum[2];     // of this thread's columns
};

// Logits in base 2, -inf where a row group does not see a key group. False: NaN or inf.
__device__ __forceinline__ bool mask_groups(const GroupRows& rows, int64_t first, float factor,
                                            float (&s)[kSums]) {
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    const int64_t group = first + i / 4 * 8 + (i & 1) + threadIdx.x % 4 * 2;
    const bool seen = group < rows.seen[i >> 1 & 1];
    finite = finite && (!seen || s[i] < -ptx::negative_infinity());
    s[i] = seen ? s[i] * factor : ptx::negative_infinity();
  }
  return finite;
}

// Moves a row's maximum to the chunk's, and turns its logits into exponentials.
template <int kRow>
__device__ __forceinline__ void exponentials(GroupRows& rows, float (&s)[kSums]) {
  float top = rows.top[kRow];
#pragma unroll
  for (int i = 2 * kRow; i < kSums; i += 4) top = fmaxf(top, fmaxf(s[i], s[i + 1]));
  top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
  top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
  const float offset = top == ptx::negative_infinity() ? 0.0f : top;
  float sum = rows.sum[kRow] * ptx::exp2(rows.top[kRow] - offset);
#pragma unroll
  for (int i = 2 * kRow; i < kSums; i += 4) {
    s[i] = ptx::exp2(s[i] - offset);
    s[i + 1] = ptx::exp2(s[i + 1] - offset);
    sum += s[i] + s[i + 1];
  }
  rows.top[kRow] = top;
  rows.sum[kRow] = sum;
}

// Stores a row's sums over the chunk's tiles.
template <class Traits, int kRow>
__device__ __forceinline__ void store_tiles(const GroupWork& work, const GroupRows& rows,
                                            int chunk, const float (&s)[kSums]) {
  constexpr int kPerTile = Traits::kTileGroups * 4 / 8;  // accumulators from tile to tile
  const int row = rows.row + 8 * kRow;
  float* to = work.sums + static_cast<int64_t>(row) * work.key_tiles;
  const int lane = threadIdx.x % 4;
  const int first = chunk * Traits::kChunkTiles;
  if constexpr (kPerTile >= 4) {
#pragma unroll
    for (int tile = 0; tile < Traits::kChunkTiles; ++tile) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kPerTile; i += 4) {
        sum += s[tile * kPerTile + i + 2 * kRow] + s[tile * kPerTile + i + 2 * kRow + 1];
      }
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (lane == tile % 4 && first + tile < work.key_tiles) to[first + tile] = sum;
    }
  } else {  // four groups a tile: two lanes'
#pragma unroll
    for (int pair = 0; pair < Traits::kChunkTiles / 2; ++pair) {
      float sum = s[pair * 4 + 2 * kRow] + s[pair * 4 + 2 * kRow + 1];
      sum += __shfl_xor_sync(~0u, sum, 1);
      const int tile = first + 2 * pair + lane / 2;
      if (lane % 2 == 0 && tile < work.key_tiles) to[tile] = sum;
    }
  }
  if (lane == 0) work.tops[static_cast<int64_t>(row) * work.top_stride + chunk] = rows.top[kRow];
}

// All chunks of a block: sums, tops, and every row's maximum and sum. False: NaN or inf.
template <class Traits>
__device__ __forceinline__ bool sum_chunks(const GroupWork& work, float factor,
                                           GroupShared<Traits>& shared) {
  const int steps = Traits::kStride * work.panels;
  GroupRows rows;
  rows.row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = rows.row + 8 * r;
    rows.seen[r] = row < work.groups ? seen_groups(work.tokens.grid, work.first_group + row,
                                                   Traits::kStride)
                                     : 0;
    rows.top[r] = ptx::negative_infinity();
    rows.sum[r] = 0.0f;
  }
  bool finite = true;
  for (int at = 0; at < kStepsAhead; ++at) start_step<Traits>(work, at, shared);
  int at = 0;
  for (int chunk = 0; chunk < work.chunks; ++chunk) {
    float s[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) s[i] = 0.0f;
    for (int step = 0; step < steps; ++step, ++at) {
      ptx::copy_async_wait<kStepsAhead - 1>();
      ptx::fence_async_proxy();
      __syncthreads();  // all are done with step at - 2, whose slot is filled now
      start_step<Traits>(work, at + kStepsAhead, shared);
      add_step<Traits>(shared, at % kStepStages, s);
      ptx::wgmma_wait<1>();
    }
    ptx::wgmma_wait<0>();
    ptx::keep_in_order(s);
    finite = mask_groups(rows, static_cast<int64_t>(chunk) * kKeyGroups, factor, s) && finite;
    exponentials<0>(rows, s);
    exponentials<1>(rows, s);
    store_tiles<Traits, 0>(work, rows, chunk, s);
    store_tiles<Traits, 1>(work, rows, chunk, s);
  }
  ptx::copy_async_wait<0>();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = rows.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (threadIdx.x % 4 != 0) continue;
    shared.top[rows.row + 8 * r] = rows.top[r];
    shared.share[rows.row + 8 * r] = 1.0f / sum;
  }
  __syncthreads();
  return finite;
}

}  // namespace tokensieve::cuda::sm90
