// The producer warpgroup: one thread keeps the K and V stages full, three warps gather Q rows and
// write what dropped rows get.
#pragma once

#include "cuda/device/rows.h"
#include "cuda/ptx/copy.h"
#include "cuda/sm90/attend/scheduler.h"
#include "cuda/sm90/key_stream.h"
#include "cuda/sm90/ring.h"
#include "cuda/sm90/swizzle.h"

namespace tokensieve::cuda::sm90 {

inline constexpr int kAnnounceVisits = 5;

// Warp 0, one thread: hands out tiles and streams their K and V.
template <class Traits>
__device__ __forceinline__ void produce_kv(const AttendArguments& arguments,
                                           SharedMemory<Traits>& shared) {
  using Visible = typename Traits::Visible;
  TileScheduler<Traits> scheduler(arguments.params);
  RingPosition<Traits::kWorkStages> work;  // the next slot to fill
  RingPosition<Traits::kStages> stage;
  const auto announce_tile = [&] {
    ptx::mbarrier_wait(&shared.work_empty[work.slot], work.phase ^ 1);
    shared.work[work.slot] = scheduler.take();
    ptx::mbarrier_arrive(&shared.work_full[work.slot]);
    work.advance();
  };

  announce_tile();
  for (int slot = 0;; slot = slot + 1 == Traits::kWorkStages ? 0 : slot + 1) {
    const Tile tile = shared.work[slot];
    if (tile.head < 0) break;
    const KeySource source = key_source<Visible>(arguments, tile);
    const int visits = tile.visits();
    BlockWalk<Traits::kTileK> walk(tile.kv_end);
    // Where every tile is visited, no mask is read.
    const uint32_t* mask =
        Visible::kBlocks && tile.kv_begin > 0 ? mask_row(arguments.params, tile) : nullptr;
    const auto word_of = [mask](int word) { return mask == nullptr ? ~0u : mask[word]; };
    // The next tile is drawn and announced a few visits before the end of this one: early enough
    // for its Q to be there in time, late enough because a drawn tile is bound to this CTA.
    const int drawn = max(0, visits - kAnnounceVisits);
    for (int i = 0; i < max(1, visits); ++i) {
      if (i == drawn) scheduler.draw();
      if (i < visits) {
        const bool sinks = tile.sink_tile && i == 0;
        // kv_end is read again: kept over the visits it would spill.
        const int key_tile = Visible::kBlocks ? walk.next(shared.work[slot].kv_end, word_of)
                             : sinks          ? 0
                                              : tile.key_tile(i);
        const int row = source.row + key_tile * Traits::kTileK;
        ptx::mbarrier_wait(&shared.k_empty[stage.slot], stage.phase ^ 1);
        if constexpr (Visible::kBlocks) {
          shared.visit_key[stage.slot_of_two_rounds()] = key_tile * Traits::kTileK;
        }
        load_tile<Traits>(shared.k[stage.slot], source.k_map, &shared.k_full[stage.slot], source,
                          row);
        ptx::mbarrier_wait(&shared.v_empty[stage.slot], stage.phase ^ 1);
        load_tile<Traits>(shared.v[stage.slot], source.k_map + 1, &shared.v_full[stage.slot],
                          source, row);
        stage.advance();
      }
      if (i == drawn + (visits > 1)) announce_tile();  // the counter answers after a microsecond
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
  const bool gathered = Traits::Visible::kCompact && tile.sparse;
  const int key = tile.first_key + row;
  return (gathered ? set.indices[key] : key) - first_token;
}

// Zero fill: this tile's share of the head's dropped rows, lse -inf. A warp takes 32 tokens of the
// mask at a time, so that stores do not wait for loads.
template <class Traits>
__device__ __forceinline__ void zero_dropped_rows(const AttendParams& params, const Tile& tile,
                                                  const Sequence& where, const TokenSet& set,
                                                  int warp) {
  constexpr int kElementBytes = sizeof(typename Traits::Element);
  constexpr int kLanes = Traits::kRowChunks;
  constexpr int kRows = 32 / kLanes;            // rows that a warp stores at once
  const int lane = threadIdx.x % 32;
  const int first_token = where.seqlen_kv - where.seqlen_q;
  const int first_word = first_token / 32;
  const int64_t words = (where.seqlen_kv + 31) / 32 - first_word;
  const int begin = first_word + static_cast<int>(words * tile.part / tile.num_parts);
  const int end = first_word + static_cast<int>(words * (tile.part + 1) / tile.num_parts);
  char* out = static_cast<char*>(params.out.data) +
              kElementBytes * row_offset(params.out, where.axis, tile.head, where.q_row);
  float* lse = params.lse == nullptr
                   ? nullptr
                   : params.lse + where.axis * params.lse_batch_stride +
                         tile.head * params.lse_head_stride + where.q_row;
  for (int word = begin + warp; word < end; word += Traits::kLoaderThreads / 32) {
    uint32_t dropped = ~set.mask[word];
    const int query = word * 32 - first_token;  // of bit 0
    if (query < 0) dropped &= ~0u << -query;
    if (query + 32 > where.seqlen_q) dropped &= ~0u >> (query + 32 - where.seqlen_q);
    if (lse != nullptr && (dropped >> lane & 1)) lse[query + lane] = ptx::negative_infinity();
#pragma unroll 4
    for (int bit = lane / kLanes; bit < 32; bit += kRows) {
      if (dropped >> bit & 1) {
        *reinterpret_cast<uint4*>(out + kElementBytes * (query + bit) * params.out.seq_stride +
                                  lane % kLanes * kChunkBytes) = make_uint4(0, 0, 0, 0);
      }
    }
  }
}

// Gathers the Q rows of a tile, a third of them a warp; rows past the last one become zero.
template <class Traits>
__device__ __forceinline__ void gather_q(const AttendParams& params, const Tile& tile,
                                         const Sequence& where, const TokenSet& set, int warp,
                                         uint32_t shared_q) {
  constexpr int kElementBytes = sizeof(typename Traits::Element);
  constexpr int kLanes = Traits::kRowChunks;
  constexpr int kRows = 32 / kLanes;
  constexpr int kWarpRows = (Traits::kTileQ + 2) / 3;
  static_assert(kWarpRows <= 64);
  const int lane = threadIdx.x % 32;
  const int chunk = lane % kLanes;
  const int first_token = where.seqlen_kv - where.seqlen_q;
  const int begin = warp * kWarpRows;
  const int end = min(Traits::kTileQ, begin + kWarpRows);
  const char* q = static_cast<const char*>(params.q.data) +
                  kElementBytes * row_offset(params.q, where.axis, tile.head, where.q_row) +
                  chunk * kChunkBytes;
  // The warp's row numbers first, in one go: 64 loads in flight instead of one after the other.
  const int last = tile.num_rows - 1;
  const int low = query_of_row<Traits>(params, tile, set, first_token,
                                       min(tile.row + begin + lane, last));
  const int high = query_of_row<Traits>(params, tile, set, first_token,
                                        min(tile.row + begin + 32 + lane, last));
#pragma unroll 4
  for (int offset = 0; offset < kWarpRows; offset += kRows) {
    const int mine = offset + lane / kLanes;
    const int query = __shfl_sync(~0u, mine < 32 ? low : high, mine % 32);
    const int row = begin + mine;
    if (row < end) {
      ptx::copy_async_16(shared_q + swizzled(row, chunk, Traits::kTileQ),
                         q + kElementBytes * query * params.q.seq_stride,
                         tile.row + row < tile.num_rows);
    }
  }
  ptx::copy_async_wait_all();
}

// Warps 1-3: Q of every tile, one tile ahead of the consumers, then the tile's zeros.
template <class Traits>
__device__ __forceinline__ void produce_q(const AttendParams& params, SharedMemory<Traits>& shared,
                                          int warp) {
  using Visible = typename Traits::Visible;
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
    if (tile.visits() > 0 || (Visible::kBlocks && stores_nothing<Visible>(tile))) {
      ptx::mbarrier_wait(&shared.q_empty[stage.slot], stage.phase ^ 1);
      gather_q<Traits>(params, tile, where, set, warp,
                       ptx::shared_address(shared.q[stage.slot]));
      ptx::fence_async_proxy();
      ptx::mbarrier_arrive(&shared.q_full[stage.slot]);
      stage.advance();
    }
    if (Visible::kZeroesDropped && tile.sparse) {
      zero_dropped_rows<Traits>(params, tile, where, set, warp);
    }
  }
}

}  // namespace tokensieve::cuda::sm90
