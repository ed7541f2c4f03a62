#include "ref/blocks.h"

#include <algorithm>

#include "ref/estimate.h"

namespace tokensieve::ref {
namespace {

// The query heads of mask m.
int64_t heads_per_mask(const Plan& plan) { return plan.shape.num_q_heads / plan.num_masks; }

std::span<const int32_t> kept_of(const Plan& plan, const Selection& selection, int64_t q_head) {
  return selection.dense() ? std::span<const int32_t>() : selection.kept_of(plan, q_head);
}

void take_given(const Plan& plan, const BlockMask& given, int64_t b, int64_t m,
                const MaskRows& mask) {
  const MaskRows from = mask_rows(given, b, m);
  for (int64_t t = 0; t < plan.row_tiles; ++t) {
    std::copy_n(from.bits + t * from.words, plan.mask_words, mask.bits + t * mask.words);
  }
}

void take_scores(const Plan& plan, const AttentionInputs& inputs, int64_t b, int64_t m,
                 const MaskRows& mask) {
  const int64_t columns = tiles_of(plan.shape.seqlen_kv);
  const float* scores =
      inputs.block_scores + (b * plan.num_masks + m) * plan.row_tiles * columns;
  const double threshold = own_threshold(inputs, m, plan.blocks.threshold);
  for (int64_t t = 0; t < plan.row_tiles; ++t) {
    for (int64_t c = 0; c < columns; ++c) {
      if (scores[t * columns + c] > threshold) mask.set(t, c);
    }
  }
}

void visit_dense_rows(const Plan& plan, const TileGrid& grid, const MaskRows& mask) {
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    if (grid.row_end(t) > grid.keys - plan.blocks.dense_rows) visit_all(grid, t, mask);
  }
}

}  // namespace

MaskRows Masks::of(const Plan& plan, int64_t q_head) const {
  const int64_t m = q_head / heads_per_mask(plan);
  auto* words = const_cast<uint32_t*>(bits.data());
  return {words + m * plan.row_tiles * plan.mask_words, plan.mask_words};
}

std::span<const int32_t> Masks::columns_of(int64_t q_head) const {
  return columns.empty() ? std::span<const int32_t>() : columns[q_head];
}

Masks block_masks(const Plan& plan, const AttentionInputs& inputs, int64_t b,
                  const Selection& selection) {
  Masks masks;
  // NaN or inf in q or k: as without a mask.
  if (plan.blocks.pattern == BlockPattern::kNone ||
      selection.reason == DenseReason::kNonFiniteScore) {
    return masks;
  }
  masks.bits.resize(static_cast<size_t>(plan.num_masks * plan.row_tiles * plan.mask_words));
  if (plan.blocks.pattern == BlockPattern::kVerticalSlash) masks.columns.resize(plan.num_masks);
  std::vector<int32_t> none;
  for (int64_t m = 0; m < plan.num_masks; ++m) {
    const int64_t head = m * heads_per_mask(plan);
    const MaskRows mask = masks.of(plan, head);
    if (plan.blocks.pattern == BlockPattern::kGiven) {
      take_given(plan, inputs.block_mask, b, m, mask);
    } else if (plan.blocks.pattern == BlockPattern::kScores) {
      take_scores(plan, inputs, b, m, mask);
    } else {
      estimate(plan, inputs, b, selection, m, mask,
               masks.columns.empty() ? none : masks.columns[m]);
    }
    // In a chunk, heads that keep tokens of their own may differ in where their rows begin.
    for (int64_t h = head; h < head + heads_per_mask(plan); ++h) {
      visit_dense_rows(plan, tile_grid(plan, kept_of(plan, selection, h)), mask);
    }
  }
  TileCount count;
  for (int64_t h = 0; h < plan.shape.num_q_heads; ++h) {
    count += count_tiles(plan, kept_of(plan, selection, h), masks.of(plan, h),
                         masks.columns_of(h));
  }
  masks.density = count.density();
  return masks;
}

void hide_tiles(const Plan& plan, const Masks& masks, int64_t q_head,
                std::span<const int32_t> kept, int64_t position, std::vector<int32_t>& keys) {
  const MaskRows mask = masks.of(plan, q_head);
  const std::span<const int32_t> columns = masks.columns_of(q_head);
  const auto rank = [&](int64_t token) {
    return kept.empty() ? token : std::lower_bound(kept.begin(), kept.end(), token) - kept.begin();
  };
  // Local fill: sinks and window are the local pass's.
  int64_t begin = 0, end = position + 1;
  if (!kept.empty() && plan.select.fill == Fill::kLocal) {
    end = std::max<int64_t>(0, position / kLocalBlock * kLocalBlock - plan.select.local_window);
    begin = std::min<int64_t>(plan.select.sinks, end);
  }
  const int64_t row_tile = (rank(position) - tile_grid(plan, kept).first_row) / kBlock;
  std::erase_if(keys, [&](int32_t key) {
    return key >= begin && key < end && !mask.get(row_tile, rank(key) / kBlock) &&
           !std::binary_search(columns.begin(), columns.end(), rank(key));
  });
}

}  // namespace tokensieve::ref
