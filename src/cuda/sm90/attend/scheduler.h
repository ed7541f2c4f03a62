// Tile order: sections of heads whose K and V fit the L2 cache together, the longest tiles of a
// section first, handed out by a counter in device memory.
//
// Only the K/V thread asks the scheduler; it passes tiles on through shared memory. One CTA works
// on a tile from its first to its last key, so the order changes no result.
#pragma once

#include "cuda/sm90/attend/traits.h"

namespace tokensieve::cuda::sm90 {

inline constexpr int kSectionBytes = 32 << 20;  // of the 50 MB of L2

template <class Traits>
class TileScheduler {
 public:
  __device__ __forceinline__ explicit TileScheduler(const AttendParams& params)
      : params_(params), next_(blockIdx.x) {
    enter_sequence();
  }

  // The next tile; head -1 when there is none.
  __device__ __forceinline__ Tile take() {
    while (next_ - first_ >= tiles_ * params_.heads.num_q_heads) {
      first_ += tiles_ * params_.heads.num_q_heads;
      if (++batch_ >= params_.sequences.batch) {
        Tile none = {};
        none.head = -1;
        return none;
      }
      enter_sequence();
    }
    return make_tile(next_ - first_);
  }

  // Draws the tile behind the current one; early, because the counter answers late.
  __device__ __forceinline__ void draw() {
    next_ = gridDim.x + atomicAdd(params_.tile_counter, 1);
  }

  // Leaves the counters zero for the next launch: the last CTA to come here clears them.
  __device__ __forceinline__ void finish() {
    __threadfence();
    if (atomicAdd(params_.tile_counter + 1, 1) == static_cast<int>(gridDim.x) - 1) {
      params_.tile_counter[0] = 0;
      params_.tile_counter[1] = 0;
    }
  }

 private:
  using Visible = typename Traits::Visible;

  __device__ __forceinline__ void enter_sequence() {
    sequence_ = sequence(params_.sequences, batch_);
    const int count =
        params_.selection.indices ? params_.selection.count[batch_] : sequence_.seqlen_kv;
    sparse_ = count != sequence_.seqlen_kv;
    first_query_ =
        params_.newest_only ? max(0, sequence_.seqlen_q - params_.newest_only) : 0;
    const int queries = sequence_.seqlen_q - first_query_;
    int rows = sparse_ ? min(count, queries) : queries;
    // A pass over whole K and V is for all rows of sparse sequences, dropped ones too, and no
    // others.
    if (!Visible::kCompact) rows = sparse_ ? queries : 0;
    tiles_ = rows > 0 ? (rows + Traits::kTileQ - 1) / Traits::kTileQ : 0;

    const bool compact = sparse_ && Visible::kCompact;
    const int kv_heads = compact ? params_.compact_heads : params_.heads.num_kv_heads;
    const int kv_bytes = max(1, count >> 7) * (Traits::kHeadDim * 4 << 7);
    const int group = params_.heads.num_q_heads / kv_heads;
    section_ = min(max(1, kSectionBytes / kv_bytes) * group, params_.heads.num_q_heads);
    count_ = count;
  }

  __device__ __forceinline__ Tile make_tile(int index) const {
    const int num_q_heads = params_.heads.num_q_heads;
    const int section = index / (section_ * tiles_);
    const int within = index - section * section_ * tiles_;
    const int heads = min(section_, num_q_heads - section * section_);

    Tile tile;
    tile.batch = batch_;
    tile.head = section * section_ + within % heads;
    tile.part = tiles_ - 1 - within / heads;
    tile.num_parts = tiles_;
    tile.row = tile.part * Traits::kTileQ;
    tile.sparse = sparse_;

    const int first_token = sequence_.seqlen_kv - sequence_.seqlen_q;
    const bool compact = sparse_ && Visible::kCompact;
    if (compact) {
      const TokenSet set = token_set(params_.selection, batch_, tile.head, num_q_heads);
      tile.first_key = first_token > 0 ? set.rank_of(first_token) : 0;
      tile.num_rows = count_ - tile.first_key;
    } else {
      tile.first_key = first_token + first_query_;
      tile.num_rows = sequence_.seqlen_q - first_query_;
    }
    const int first = tile.first_key + tile.row;
    const int last = tile.first_key + min(tile.row + Traits::kTileQ, tile.num_rows) - 1;
    const TileKeys keys = Visible::tile_keys(params_, tile, compact, first, last);
    tile.kv_begin = keys.begin / Traits::kTileK;
    tile.sink_tile = keys.sinks;
    tile.kv_end =
        last >= first ? (keys.end + Traits::kTileK - 1) / Traits::kTileK : tile.kv_begin;
    if (last < first) tile.sink_tile = 0;
    if constexpr (Visible::kBlocks) {
      tile.kv_begin = tile.kv_end - visits_of<Traits::kTileK>(params_, tile);
    }
    return tile;
  }

  const AttendParams& params_;
  int next_;
  int batch_ = 0;
  int first_ = 0;  // index of the sequence's first tile
  Sequence sequence_;
  int first_query_;
  bool sparse_;
  int count_;
  int tiles_;    // of a head
  int section_;  // q heads
};

}  // namespace tokensieve::cuda::sm90
