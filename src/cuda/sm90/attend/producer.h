// The producer warpgroup: one thread keeps the K and V stages full, three warps gather Q rows and
// write what dropped rows get.
#pragma once

#include "cuda/ptx/copy.h"
#include "cuda/sm90/attend/scheduler.h"

namespace tokensieve::cuda::sm90 {

// Loads a key tile, panel by panel.
template <class Traits>
__device__ __forceinline__ void load_tile(typename Traits::Element* stage, const CUtensorMap* map,
                                          uint64_t* full, int row, int head, int batch) {
  ptx::mbarrier_expect_tx(full, Traits::kTileKBytes);
#pragma unroll
  for (int panel = 0; panel < Traits::kPanels; ++panel) {
    ptx::tma_load_4d(stage + panel * Traits::kTileK * 64, map, full, panel * 64, row, head, batch);
  }
}

// Warp 0, one thread: hands out tiles and streams their K and V.
template <class Traits>
__device__ __forceinline__ void produce_kv(const AttendParams& params,
                                           SharedMemory<Traits>& shared) {
  TileScheduler<Traits> scheduler(params);
  RingPosition<Traits::kWorkStages> work;
  RingPosition<Traits::kStages> stage;
  while (true) {
    const Tile tile = scheduler.take();
    ptx::mbarrier_wait(&shared.work_empty[work.slot], work.phase ^ 1);
    shared.work[work.slot] = tile;
    ptx::mbarrier_arrive(&shared.work_full[work.slot]);
    work.advance();
    if (tile.head < 0) break;
    scheduler.draw();

    const bool compact = Traits::kKeys != Keys::kWindow && tile.sparse;
    const CUtensorMap* k_map = compact ? &params.compact_k_map : &params.k_map;
    const CUtensorMap* v_map = compact ? &params.compact_v_map : &params.v_map;
    const int heads = compact ? params.compact_heads : params.heads.num_kv_heads;
    const int head = tile.head * heads / params.heads.num_q_heads;
    const Sequence where = sequence(params.sequences, tile.batch);
    const int axis = compact ? tile.batch : where.axis;
    const int first_row = compact ? 0 : where.kv_row;

    const int visits = tile.visits();
    for (int i = 0; i < visits; ++i) {
      const bool sink = tile.sink_tile && i == visits - 1;
      const int row = first_row + (sink ? 0 : tile.kv_end - 1 - i) * Traits::kTileK;
      ptx::mbarrier_wait(&shared.k_empty[stage.slot], stage.phase ^ 1);
      load_tile<Traits>(shared.k[stage.slot], k_map, &shared.k_full[stage.slot], row, head, axis);
      ptx::mbarrier_wait(&shared.v_empty[stage.slot], stage.phase ^ 1);
      load_tile<Traits>(shared.v[stage.slot], v_map, &shared.v_full[stage.slot], row, head, axis);
      stage.advance();
    }
  }
  scheduler.finish();
}

// The tile in a slot of the ring. Through shuffles, because the compiler must see that all lanes
// hold the same: wgmma in a branch that might diverge is serialised (ptxas C7520).
template <class Traits>
__device__ __forceinline__ Tile read_tile(const SharedMemory<Traits>& shared, int slot) {
  Tile tile;
  const int* from = reinterpret_cast<const int*>(&shared.work[slot]);
  int* to = reinterpret_cast<int*>(&tile);
#pragma unroll
  for (size_t i = 0; i < sizeof(Tile) / sizeof(int); ++i) to[i] = __shfl_sync(~0u, from[i], 0);
  return tile;
}

// Every reading warp gives a slot back when it is done with the tile.
template <class Traits>
__device__ __forceinline__ void release_tile(SharedMemory<Traits>& shared, int slot) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(&shared.work_empty[slot]);
}

// The token of a tile's row, counted from the sequence's first query.
template <class Traits>
__device__ __forceinline__ int query_of_row(const AttendParams& params, const Tile& tile,
                                            const TokenSet& set, int first_token, int row) {
  const bool gathered = Traits::kKeys != Keys::kWindow && tile.sparse;
  const int key = tile.first_key + row;
  return (gathered ? set.indices[key] : key) - first_token;
}

// Zero fill: this tile's share of the head's dropped rows, lse -inf.
template <class Traits>
__device__ __forceinline__ void zero_dropped_rows(const AttendParams& params, const Tile& tile,
                                                  const Sequence& where, const TokenSet& set,
                                                  int thread) {
  constexpr int kLanes = Traits::kHeadDim / 8;  // 16-byte chunks of a row
  constexpr int kRows = Traits::kLoaderThreads / kLanes;
  if (thread >= kRows * kLanes) return;
  const int64_t queries = where.seqlen_q;
  const int begin = static_cast<int>(queries * tile.part / tile.num_parts);
  const int end = static_cast<int>(queries * (tile.part + 1) / tile.num_parts);
  const int first_token = where.seqlen_kv - where.seqlen_q;
  char* out = static_cast<char*>(params.out.data) +
              2 * (where.axis * params.out.batch_stride + tile.head * params.out.head_stride +
                   where.q_row * params.out.seq_stride);
  for (int query = begin + thread / kLanes; query < end; query += kRows) {
    if (set.keeps(first_token + query)) continue;
    *reinterpret_cast<uint4*>(out + 2 * query * params.out.seq_stride + thread % kLanes * 16) =
        make_uint4(0, 0, 0, 0);
    if (params.lse != nullptr && thread % kLanes == 0) {
      params.lse[where.axis * params.lse_batch_stride + tile.head * params.lse_head_stride +
                 where.q_row + query] = __int_as_float(0xff800000);
    }
  }
}

// Warps 1-3: gathers the Q rows of every tile, one tile ahead of the consumers.
template <class Traits>
__device__ __forceinline__ void produce_q(const AttendParams& params, SharedMemory<Traits>& shared,
                                          int thread) {
  constexpr int kLanes = Traits::kHeadDim / 8;
  constexpr int kRows = Traits::kLoaderThreads / kLanes;
  RingPosition<Traits::kWorkStages> work;
  RingPosition<Traits::kQStages> stage;
  while (true) {
    ptx::mbarrier_wait(&shared.work_full[work.slot], work.phase);
    const Tile tile = read_tile<Traits>(shared, work.slot);
    release_tile<Traits>(shared, work.slot);
    work.advance();
    if (tile.head < 0) break;
    const Sequence where = sequence(params.sequences, tile.batch);
    const TokenSet set =
        token_set(params.selection, tile.batch, tile.head, params.heads.num_q_heads);
    if (tile.visits() > 0) {
      const int first_token = where.seqlen_kv - where.seqlen_q;
      const char* q = static_cast<const char*>(params.q.data) +
                      2 * (where.axis * params.q.batch_stride +
                           tile.head * params.q.head_stride + where.q_row * params.q.seq_stride);
      const uint32_t shared_q = ptx::shared_address(shared.q[stage.slot]);
      ptx::mbarrier_wait(&shared.q_empty[stage.slot], stage.phase ^ 1);
      if (thread < kRows * kLanes) {
        const int chunk = thread % kLanes;
#pragma unroll 4
        for (int row = thread / kLanes; row < Traits::kTileQ; row += kRows) {
          const bool valid = tile.row + row < tile.num_rows;
          const int query =
              query_of_row<Traits>(params, tile, set, first_token, valid ? tile.row + row : 0);
          ptx::copy_async_16(shared_q + swizzled(row, chunk, Traits::kTileQ),
                             q + 2 * query * params.q.seq_stride + chunk * 16, valid);
        }
      }
      ptx::copy_async_wait_all();
      ptx::fence_async_proxy();
      ptx::mbarrier_arrive(&shared.q_full[stage.slot]);
      stage.advance();
    }
    if (Traits::kKeys == Keys::kCausal && tile.sparse) {
      zero_dropped_rows<Traits>(params, tile, where, set, thread);
    }
  }
}

}  // namespace tokensieve::cuda::sm90
