// Stage estimate: which tiles of a sequence's block masks are visited.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tiles.h"
#include "ref/oracle.h"

namespace tokensieve::ref {

// The block masks of sequence b, whose kept tokens are those of `selection`.
struct Masks {
  std::vector<uint32_t> bits;  // [num_masks, row_tiles, words]; empty: no mask takes part
  double density = 1.0;        // visited / visible tiles of all query heads

  // Of a query head.
  MaskRows of(const Plan& plan, int64_t q_head) const;
};
Masks block_masks(const Plan& plan, const AttentionInputs& inputs, int64_t b,
                  const Selection& selection);

// Removes from `keys` those that the query at `position` sees only through tiles that its mask does
// not visit. kept: its head's kept tokens, empty if the sequence runs dense.
void hide_tiles(const Plan& plan, const MaskRows& mask, std::span<const int32_t> kept,
                int64_t position, std::vector<int32_t>& keys);

}  // namespace tokensieve::ref
