#include "core/tiles.h"

namespace tokensieve {

TileRange visible_tiles(const Plan& plan, const TileGrid& grid, std::span<const int32_t> kept,
                        int64_t t) {
  if (kept.empty() || plan.select.fill != Fill::kLocal) return {0, grid.end(t)};
  const auto rank = [&](int64_t token) {
    return std::lower_bound(kept.begin(), kept.end(), token) - kept.begin();
  };
  // Windows begin no earlier for later rows.
  const int64_t last = kept[static_cast<size_t>(grid.row_end(t) - 1)];
  const int64_t window_begin =
      std::max<int64_t>(0, last / kLocalBlock * kLocalBlock - plan.select.local_window);
  const int64_t begin = rank(std::min<int64_t>(plan.select.sinks, window_begin));
  const int64_t end = rank(window_begin);
  if (begin >= end) return {0, 0};
  return {begin / kBlock, tiles_of(end)};
}

TileGrid tile_grid(const Plan& plan, std::span<const int32_t> kept) {
  const int64_t first = plan.shape.seqlen_kv - plan.shape.seqlen_q;
  if (kept.empty()) return {first, plan.shape.seqlen_kv};
  return {std::lower_bound(kept.begin(), kept.end(), first) - kept.begin(),
          static_cast<int64_t>(kept.size())};
}

TileCount& TileCount::operator+=(const TileCount& other) {
  visited += other.visited;
  visible += other.visible;
  columns += other.columns;
  return *this;
}

TileCount count_tiles(const Plan& plan, std::span<const int32_t> kept, const MaskRows& mask,
                      std::span<const int32_t> columns) {
  const TileGrid grid = tile_grid(plan, kept);
  TileCount count;
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    const TileRange visible = visible_tiles(plan, grid, kept, t);
    count.visible += visible.end - visible.begin;
    for (int64_t c = visible.begin; c < visible.end; ++c) count.visited += mask.get(t, c);
    for (const int32_t column : columns) {
      const int64_t c = column / kBlock;
      count.columns += c >= visible.begin && c < visible.end && !mask.get(t, c);
    }
  }
  return count;
}

VerticalSlashSizes vertical_slash_sizes(const BlockConfig& blocks, const int32_t* sizes,
                                        int64_t keys) {
  VerticalSlashSizes result = {blocks.verticals, blocks.slashes};
  if (sizes != nullptr) {
    result = {sizes[0], sizes[1]};
  } else if (blocks.slash_ratio > 0) {
    const auto budget = static_cast<double>(
        static_cast<int64_t>(blocks.slash_ratio * static_cast<double>(keys)));
    result = {static_cast<int64_t>(0.2 * budget), static_cast<int64_t>(0.8 * budget)};
  }
  constexpr int64_t kLeastSlashes = 50;
  return {std::min(keys, std::max(result.verticals, kForcedVerticals)),
          std::min(keys, std::max(result.slashes, kLeastSlashes))};
}

}  // namespace tokensieve
