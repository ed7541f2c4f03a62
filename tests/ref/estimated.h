// Masks that the oracle estimates, as tiles up to the diagonal.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "ref/blocks.h"
#include "support/case_data.h"

namespace tokensieve::test {

inline AttentionCase prompt(int64_t queries, int64_t keys,
                            Content content = Content::kHeavyHitters) {
  AttentionCase c = {"estimate", suffix_attention(queries, keys, 4, 2, 32)};
  c.select.dense_policy = DensePolicy::kNever;
  c.content = content;
  return c;
}

inline Plan plan_of(const AttentionCase& c, const BlockConfig& blocks) {
  return make_plan(c.shape, c.select, blocks, {.backend = Backend::kRef}).value();
}

// A mask's tiles below the diagonal, [row tiles][key tiles].
using Tiles = std::vector<std::vector<bool>>;

inline Tiles all_tiles(const TileGrid& grid) {
  Tiles tiles;
  for (int64_t t = 0; t < grid.row_tiles(); ++t) tiles.emplace_back(grid.end(t), true);
  return tiles;
}

inline int64_t count(const Tiles& tiles) {
  int64_t set = 0;
  for (const auto& row : tiles) set += std::count(row.begin(), row.end(), true);
  return set;
}

inline bool contains(const Tiles& larger, const Tiles& smaller) {
  for (size_t t = 0; t < smaller.size(); ++t) {
    for (size_t c = 0; c < smaller[t].size(); ++c) {
      if (smaller[t][c] && !larger[t][c]) return false;
    }
  }
  return true;
}

// Of query head h.
inline Tiles tiles_of_head(const Plan& plan, const AttentionInputs& in, int64_t h) {
  const ref::Selection selection = ref::select_sequence(plan, in, 0, {});
  const ref::Masks masks = ref::block_masks(plan, in, 0, selection);
  std::span<const int32_t> kept;
  if (!selection.dense()) kept = selection.kept_of(plan, h);
  const TileGrid grid = tile_grid(plan, kept);
  Tiles tiles;
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    std::vector<bool>& row = tiles.emplace_back();
    for (int64_t c = 0; c < grid.end(t); ++c) row.push_back(masks.of(plan, h).get(t, c));
  }
  return tiles;
}

inline Tiles estimate(const AttentionCase& c, const CaseData& data, const BlockConfig& blocks,
                      int64_t h = 0) {
  return tiles_of_head(plan_of(c, blocks), data.inputs(), h);
}

// Columns of tiles and tile distances, both of the key tiles on a chunk's diagonal.
inline Tiles lines(const TileGrid& grid, const std::set<int64_t>& columns,
                   const std::set<int64_t>& distances) {
  Tiles tiles;
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    std::vector<bool>& row = tiles.emplace_back();
    for (int64_t c = 0; c < grid.end(t); ++c) {
      row.push_back(columns.contains(c) || distances.contains(grid.end(t) - 1 - c) ||
                    distances.contains(grid.diagonal(t) - c));
    }
  }
  return tiles;
}

}  // namespace tokensieve::test
