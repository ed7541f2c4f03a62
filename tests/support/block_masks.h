// Block masks for tests: patterns of listed tiles, with garbage in every bit that does not count.
#pragma once

#include <string>
#include <vector>

#include "core/tiles.h"
#include "support/case_data.h"

namespace tokensieve::test {

enum class Tiles {
  kRandom,     // each tile with probability 0.4
  kFull,
  kDiagonal,   // those of the diagonal only
  kOneFar,     // one tile in the middle of what a row tile sees
  kColumn0,
  kEmptyRows,  // random, without any tile in the first, a middle and the last row tile
  kEmpty,
};

inline bool is_listed(Tiles tiles, const TileGrid& grid, int64_t t, int64_t c, Random& random) {
  switch (tiles) {
    case Tiles::kRandom:
      return random.uniform() < 0.4;
    case Tiles::kFull:
      return true;
    case Tiles::kDiagonal:
      return c >= grid.diagonal(t);
    case Tiles::kOneFar:
      return c == grid.end(t) / 2;
    case Tiles::kColumn0:
      return c == 0;
    case Tiles::kEmptyRows: {
      const int64_t rows = grid.row_tiles();
      const bool empty = t == 0 || t == rows / 2 || t == rows - 1;
      return random.uniform() < 0.4 && !empty;
    }
    case Tiles::kEmpty:
      break;
  }
  return false;
}

// Bits of every mask of `plan`; keep: the kept tokens of a sparse plan.
inline std::vector<uint32_t> make_mask(const Plan& plan, const KeepSet& keep, Tiles tiles,
                                       uint64_t seed) {
  Random random(seed);
  const AttentionShape& s = plan.shape;
  std::vector<uint32_t> bits(s.batch * plan.num_masks * plan.row_tiles * plan.mask_words);
  for (uint32_t& word : bits) word = static_cast<uint32_t>(random.next());
  const BlockMask all = {bits.data(), plan.row_tiles, plan.mask_words, plan.num_masks};
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t m = 0; m < plan.num_masks; ++m) {
      std::span<const int32_t> kept;
      if (keep.indices != nullptr && keep.count[b] != s.seqlen_kv) {
        const int64_t set = b * plan.num_sets + m * plan.num_sets / plan.num_masks;
        kept = {keep.indices + set * keep.capacity, static_cast<size_t>(keep.count[b])};
      }
      const TileGrid grid = tile_grid(plan, kept);
      const MaskRows mask = mask_rows(all, b, m);
      for (int64_t t = 0; t < grid.row_tiles(); ++t) {
        for (int64_t c = 0; c < grid.end(t); ++c) {
          mask.bits[t * mask.words + c / 32] &= ~(uint32_t{1} << (c % 32));
          if (is_listed(tiles, grid, t, c, random)) mask.set(t, c);
        }
      }
    }
  }
  return bits;
}

}  // namespace tokensieve::test
