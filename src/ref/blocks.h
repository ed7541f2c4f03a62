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
  // kVerticalSlash: the columns of every query head, ascending, in the coordinates of its mask.
  std::vector<std::vector<int32_t>> columns;
  double density = 1.0;  // visited / visible tiles of all query heads

  // Of a query head.
  MaskRows of(const Plan& plan, int64_t q_head) const;
  std::span<const int32_t> columns_of(int64_t q_head) const;
};
Masks block_masks(const Plan& plan, const AttentionInputs& inputs, int64_t b,
                  const Selection& selection);

// Removes from `keys` those that the query of a head at `position` sees only through tiles that its
// mask does not visit, unless they are its columns. kept: its head's kept tokens, empty if the
// sequence runs dense.
void hide_tiles(const Plan& plan, const Masks& masks, int64_t q_head,
                std::span<const int32_t> kept, int64_t position, std::vector<int32_t>& keys);

}  // namespace tokensieve::ref
