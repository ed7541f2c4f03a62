// Row r sees rows 0..r: dense, or compact rows among themselves (zero fill).
#pragma once

#include "cuda/keys/tile.h"

namespace tokensieve::cuda {

struct CausalKeys {
  static constexpr bool kCompact = true;        // reads compact K and V of a sparse sequence
  static constexpr bool kLowerBound = false;    // a row may lack early keys
  static constexpr bool kSinks = false;         // visits the sinks first
  static constexpr bool kZeroesDropped = true;  // writes zeros to the rows of dropped tokens
  static constexpr bool kMerges = false;        // into what the pass before wrote
  static constexpr bool kBlocks = false;        // only tiles that a mask visits (blocks.h)

  // What the rows with own positions first..last see together. `compact`: they are compact rows.
  __device__ static __forceinline__ TileKeys tile_keys(const AttendParams&, const Tile&,
                                                       bool /*compact*/, int /*first*/, int last) {
    return {0, last + 1, false};
  }
  // What the row with own position `key` sees. `set`: of the tile's head, if it is sparse.
  __device__ static __forceinline__ KeyRange row_keys(const AttendParams&, const TokenSet& /*set*/,
                                                      const Tile&, int key) {
    return {0, key + 1};
  }
};

}  // namespace tokensieve::cuda
