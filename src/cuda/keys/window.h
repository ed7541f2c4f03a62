// Local pass of local fill: every row of a sparse sequence sees the sinks and its own window, in
// whole K and V. Dense sequences have no rows here: they are the limited pass's.
#pragma once

#include "cuda/keys/local_window.h"
#include "cuda/keys/tile.h"

namespace tokensieve::cuda {

struct WindowKeys {
  static constexpr bool kCompact = false;
  static constexpr bool kLowerBound = true;
  static constexpr bool kSinks = true;
  static constexpr bool kZeroesDropped = false;
  static constexpr bool kMerges = false;
  static constexpr bool kBlocks = false;

  __device__ static __forceinline__ TileKeys tile_keys(const AttendParams& params, const Tile&,
                                                       bool /*compact*/, int first, int last) {
    return {window_begin(first, params.local.window), last + 1,
            min(params.local.sink_tokens, window_begin(last, params.local.window)) > 0};
  }
  __device__ static __forceinline__ KeyRange row_keys(const AttendParams& params,
                                                      const TokenSet& /*set*/, const Tile&,
                                                      int key) {
    return {window_begin(key, params.local.window), key + 1};
  }
};

}  // namespace tokensieve::cuda
