// Stage estimate: the block masks of one sequence, from the caller's bits or scores or by an
// estimator, and their density.
#include <algorithm>

#include "cpu/estimate.h"

namespace tokensieve::cpu {
namespace {

void take_given(const Context& c, int64_t b, int64_t m, const MaskRows& mask) {
  // Of a packed call they lie as far apart as the longest sequence's.
  const MaskRows from = mask_rows(c.in.block_mask, b, m);
  for (int64_t t = 0; t < c.plan.row_tiles; ++t) {
    std::copy_n(from.bits + t * from.words, mask.words, mask.bits + t * mask.words);
  }
}

void take_scores(const Context& c, int64_t b, int64_t m, const MaskRows& mask) {
  const int64_t columns = tiles_of(c.plan.shape.seqlen_kv);
  const float* row = c.in.block_scores + (b * c.plan.num_masks + m) * c.plan.row_tiles * columns;
  const double threshold = own_threshold(c, m, c.plan.blocks.threshold);
  for (int64_t t = 0; t < c.plan.row_tiles; ++t, row += columns) {
    for (int64_t k = 0; k < columns; ++k) {
      if (row[k] > threshold) mask.set(t, k);
    }
  }
}

// All rows of a mask whose estimate failed, else the newest that visit everything. Of every head:
// in a chunk, heads that keep tokens of their own may differ in where their rows begin.
void visit_dense_rows(const Context& c, int64_t keep, int64_t m) {
  for (int64_t head = m * c.heads_per_mask(); head < (m + 1) * c.heads_per_mask(); ++head) {
    const TileGrid grid = tile_grid(c.plan, c.kept_of(head, keep));
    const int64_t dense = c.layout.failed[m] != 0 ? grid.keys : c.plan.blocks.dense_rows;
    for (int64_t t = grid.row_tiles() - 1; t >= 0 && grid.row_end(t) > grid.keys - dense; --t) {
      visit_all(grid, t, c.mask_of(head));
    }
  }
}

void estimate(Context& c, int64_t batch, int64_t keep) {
  switch (c.plan.blocks.pattern) {
    case BlockPattern::kFlex:
      return estimate_flex(c, batch, keep);
    case BlockPattern::kPooled:
      return estimate_pooled(c, batch, keep);
    case BlockPattern::kAntidiagonal:
      return estimate_antidiagonal(c, batch, keep);
    case BlockPattern::kVerticalSlash:
      return estimate_vertical_slash(c, batch, keep);
    default:
      return;
  }
}

double density(Context& c, int64_t keep) {
  std::atomic<int64_t> visited{0}, visible{0}, columns{0};
  c.parallel(Stage::kEstimate, c.plan.shape.num_q_heads, [&](int64_t head, int) {
    const TileCount count = count_tiles(c.plan, c.kept_of(head, keep), c.mask_of(head),
                                        c.columns_of(head));
    visited += count.visited;
    visible += count.visible;
    columns += count.columns;
  });
  return TileCount{visited, visible, columns}.density();
}

}  // namespace

double mask_sequence(Context& c, int64_t batch, int64_t keep, DenseReason reason) {
  const BlockPattern pattern = c.plan.blocks.pattern;
  c.mask = {};
  // NaN or inf in q or k: as without a mask.
  if (pattern == BlockPattern::kNone || reason == DenseReason::kNonFiniteScore) return 1.0;
  c.mask = {c.layout.mask, c.plan.row_tiles, c.plan.mask_words, c.plan.num_masks};
  c.parallel(Stage::kEstimate, c.plan.num_masks, [&](int64_t m, int) {
    const MaskRows mask = mask_rows(c.mask, 0, m);
    std::fill_n(mask.bits, c.plan.row_tiles * mask.words, 0u);
    c.layout.failed[m] = 0;
    if (pattern == BlockPattern::kGiven) take_given(c, batch, m, mask);
    if (pattern == BlockPattern::kScores) take_scores(c, batch, m, mask);
  });
  estimate(c, batch, keep);
  c.parallel(Stage::kEstimate, c.plan.num_masks,
             [&](int64_t m, int) { visit_dense_rows(c, keep, m); });
  return density(c, keep);
}

}  // namespace tokensieve::cpu
