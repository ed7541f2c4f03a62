// Of another pattern's keys those in the tiles that a block mask visits.
#pragma once

#include "cuda/blocks/walk.h"
#include "cuda/keys/tile.h"

namespace tokensieve::cuda {

template <class Keys>
struct BlockKeys : Keys {
  static constexpr bool kBlocks = true;
};

// Whether the rows of a tile that visits nothing are written: 0, and lse -inf. Where a pass merges
// into what the one before wrote, that stays.
template <class Visible>
__device__ __forceinline__ bool stores_nothing(const Tile& tile) {
  return tile.row < tile.num_rows && !(Visible::kMerges && tile.sparse);
}

// Row of a [batch, num_q_heads, row_tiles] array.
__device__ __forceinline__ int64_t row_tile_index(const AttendParams& params, const Tile& tile) {
  return (static_cast<int64_t>(tile.batch) * params.heads.num_q_heads + tile.head) *
             params.blocks.row_tiles +
         tile.row / kBlock;
}

// A row tile's words of its head's mask.
__device__ __forceinline__ const uint32_t* mask_row(const AttendParams& params, const Tile& tile) {
  const Blocks& blocks = params.blocks;
  const int mask = tile.head * blocks.num_masks / params.heads.num_q_heads;
  const int64_t row =
      (static_cast<int64_t>(tile.batch) * blocks.num_masks + mask) * blocks.row_tiles +
      tile.row / kBlock;
  return blocks.bits + row * blocks.words;
}

// Visits of a row tile in stages of kTileK keys.
template <int kTileK>
__device__ __forceinline__ int visits_of(const AttendParams& params, const Tile& tile) {
  return ceil_div(params.blocks.visits[row_tile_index(params, tile)].x, kTileK / kVisitKeys);
}

}  // namespace tokensieve::cuda
