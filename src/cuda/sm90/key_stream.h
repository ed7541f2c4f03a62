// Where the keys of a call lie, and how a tile of them comes into shared memory.
#pragma once

#include <cstddef>

#include "cuda/keys/tile.h"
#include "cuda/sm90/attend/attend.h"
#include "cuda/sm90/ptx/tma.h"

namespace tokensieve::cuda::sm90 {

// Where a tile's keys lie.
struct KeySource {
  const CUtensorMap* k_map;  // v_map is the next one: registers are short here
  int row;   // of key tile 0
  int head;
  int axis;  // batch coordinate
};

static_assert(offsetof(AttendArguments, v_map) == sizeof(CUtensorMap));
static_assert(offsetof(AttendArguments, compact_v_map) ==
              offsetof(AttendArguments, compact_k_map) + sizeof(CUtensorMap));

template <class Visible>
__device__ __forceinline__ KeySource key_source(const AttendArguments& arguments,
                                                const Tile& tile) {
  const AttendParams& params = arguments.params;
  if (Visible::kCompact && tile.sparse) {
    return {&arguments.compact_k_map, 0,
            tile.head * params.compact_heads / params.heads.num_q_heads, tile.batch};
  }
  const Sequence where = sequence(params.sequences, tile.batch);
  return {&arguments.k_map, where.kv_row,
          tile.head * params.heads.num_kv_heads / params.heads.num_q_heads, where.axis};
}

// Loads Shape::kTileK keys from `row` on into a stage, panel by panel of 64 columns and box by box
// of Shape::kBoxRows rows, which are the map's.
template <class Shape>
__device__ __forceinline__ void load_tile(typename Shape::Element* stage, const CUtensorMap* map,
                                          uint64_t* full, const KeySource& source, int row) {
  constexpr int kElementBytes = sizeof(typename Shape::Element);
  ptx::mbarrier_expect_tx(full, Shape::kTileK * Shape::kHeadDim * kElementBytes);
#pragma unroll
  for (int panel = 0; panel < Shape::kHeadDim / 64; ++panel) {
#pragma unroll
    for (int box = 0; box < Shape::kTileK; box += Shape::kBoxRows) {
      ptx::tma_load_4d(stage + (panel * Shape::kTileK + box) * 64, map, full, panel * 64,
                       row + box, source.head, source.axis);
    }
  }
}

}  // namespace tokensieve::cuda::sm90
