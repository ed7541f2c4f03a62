// Compact pass of local fill: a kept row sees the compact rows behind the sinks and before its
// window, which is the local pass's, and is merged with that by lse. Dense sequences are causal.
#pragma once

#include "cuda/keys/local_window.h"
#include "cuda/keys/tile.h"

namespace tokensieve::cuda {

struct LimitedKeys {
  static constexpr bool kCompact = true;
  static constexpr bool kLowerBound = true;
  static constexpr bool kSinks = false;
  static constexpr bool kZeroesDropped = false;
  static constexpr bool kMerges = true;
  static constexpr bool kBlocks = false;

  __device__ static __forceinline__ TileKeys tile_keys(const AttendParams& params, const Tile& tile,
                                                       bool compact, int first, int last) {
    TileKeys keys = {0, last + 1, false};
    if (compact) {
      const TokenSet set =
          token_set(params.selection, tile.batch, tile.head, params.heads.num_q_heads);
      keys.end = last >= first
                     ? set.rank_of_word(window_begin(set.indices[last], params.local.window))
                     : 0;
    }
    return keys;
  }
  __device__ static __forceinline__ KeyRange row_keys(const AttendParams& params,
                                                      const TokenSet& set, const Tile& tile,
                                                      int key) {
    KeyRange keys = {0, key + 1};
    if (tile.sparse) {
      keys.begin = params.local.sink_tokens > 0 ? set.rank_of(params.local.sink_tokens) : 0;
      keys.end = set.rank_of_word(window_begin(set.indices[key], params.local.window));
    }
    return keys;
  }
};

}  // namespace tokensieve::cuda
