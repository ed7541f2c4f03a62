// A unit of attend's work, and how a pattern of visible keys describes itself.
//
// A pattern is a struct with six flags and two functions (causal.h explains them; window.h,
// limited.h; blocks.h: another one's, under a mask); the kernels take it as a template argument and
// ask nothing else. "Keys" are columns of whatever the tile reads: tokens of the sequence, or rows
// of compact K and V.
#pragma once

#include <cstdint>

#include "cuda/device/sequence.h"
#include "cuda/params.h"

namespace tokensieve::cuda {

// One unit of work: the query rows of a tile of one head against a range of key tiles.
struct Tile {
  int32_t batch;
  int32_t head;       // q head; -1: no more work
  int32_t row;        // first row, counted from the sequence's first attended row
  int32_t num_rows;   // attended rows of this head
  int32_t first_key;  // row r's own position among the keys is first_key + r
  int32_t sink_tile;         // 1: visit key tile 0 first, for the sinks
  int32_t kv_begin, kv_end;  // key tiles, visited from the last one down
  int32_t sparse;     // the sequence has indices, and K and V are the compact ones
  int32_t part, num_parts;  // this tile's share of the rows to be zeroed

  __device__ __forceinline__ int visits() const { return kv_end - kv_begin + sink_tile; }
  // The key tile of a visit that is not the sinks'.
  __device__ __forceinline__ int key_tile(int visit) const {
    return kv_end - 1 - visit + sink_tile;
  }
};

// The keys [begin, end) that a row sees besides the sinks.
struct KeyRange {
  int begin;
  int end;
};

// The keys that some row of a tile sees: [begin, end), and the sinks before it.
struct TileKeys {
  int begin;
  int end;
  bool sinks;
};

}  // namespace tokensieve::cuda
