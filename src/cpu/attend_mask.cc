// Row tiles against packed keys: the kernels of the plan's products, what block masks list, and
// single columns.
#include "cpu/attend.h"

namespace tokensieve::cpu {

// Whether a row tile of the group's heads may visit the key tile.
bool Attender::listed(const PanelGroup& group, const TileGrid& grid, int64_t key_tile) const {
  if (c_.mask.bits == nullptr) return true;
  for (int64_t head = group.q_head; head < group.q_head + group.q_heads; ++head) {
    const MaskRows mask = c_.mask_of(head);
    for (int64_t t = grid.row_tiles() - 1; t >= 0 && key_tile < grid.end(t); --t) {
      if (mask.get(t, key_tile)) return true;
    }
  }
  return false;
}

const uint32_t* Attender::mask_row(int64_t head, int64_t row_tile) const {
  if (c_.mask.bits == nullptr) return nullptr;
  const MaskRows mask = c_.mask_of(head);
  return mask.bits + row_tile * mask.words;
}

void Attender::attend(const RowTile* tiles, int count, const Panels& panels, const Logits& logits,
                      int thread) const {
  if (count == 0) return;
  if (c_.tiles != nullptr) {
    const auto attend = c_.plan.options.products == Products::kSplit ? c_.tiles->attend_split
                                                                     : c_.tiles->attend_bf16;
    return attend({.tiles = tiles,
                   .count = count,
                   .blocks = panels.blocks,
                   .logits = logits,
                   .scratch = c_.tile_scratch(thread),
                   .exact = c_.kernels,
                   .k = panels.k_rows,
                   .v = panels.v_rows});
  }
  for (const RowTile& tile : std::span(tiles, static_cast<size_t>(count))) {
    if (tile.mask != nullptr) {
      attend_masked(tile, panels, logits);
    } else {
      const auto ranges = static_cast<size_t>(tile.num_ranges);
      c_.kernels.attend(tile.tile, {panels.kt, panels.v, {tile.ranges, ranges}, tile.row_end},
                        logits);
    }
  }
}

void Attender::attend_masked(const RowTile& tile, const Panels& panels,
                             const Logits& logits) const {
  // Adjacent tiles make one run, so that a full row visits what it does without a mask. Rows end at
  // their limits: runs of bits beyond do nothing.
  for (int i = 0; i < tile.num_ranges; ++i) {
    const KeyRange& range = tile.ranges[i];
    const int64_t end = tiles_of(range.end);
    for (int64_t key_tile = range.begin / kBlock; key_tile < end;) {
      const int64_t first = key_tile;
      const bool visited = lists(tile.mask, first);
      while (key_tile < end && lists(tile.mask, key_tile) == visited) ++key_tile;
      const KeyRange run = {std::max(range.begin, first * kBlock),
                            std::min(range.end, key_tile * kBlock)};
      if (visited) {
        c_.kernels.attend(tile.tile, {panels.kt, panels.v, {&run, 1}, tile.row_end}, logits);
      } else {
        attend_columns(tile, run, panels, logits);
      }
    }
  }
}

void Attender::pack_columns(const Pass& pass) {
  const int64_t num_panels = c_.layout.panels.column_keys / kPanelKeys;
  if (c_.mask.bits == nullptr || num_panels == 0) return;
  const int64_t heads_per_group = group(pass, 0).q_heads;
  const int64_t tasks = heads_per_group * num_panels;
  c_.parallel(Stage::kCompact, pass.count * tasks, [&](int64_t i, int) {
    const int64_t slot = i / tasks, head_in_group = i % tasks / num_panels;
    const PanelGroup g = group(pass, slot);
    const int64_t head = g.q_head + head_in_group;
    const std::span<const int32_t> columns = c_.columns_of(head);
    const int64_t first = i % num_panels * kPanelKeys;
    const int64_t count = std::min<int64_t>(kPanelKeys, std::ssize(columns) - first);
    if (count <= 0) return;
    int32_t tokens[kPanelKeys];
    const int32_t* list = pass.sets ? indices(g.set) : nullptr;
    for (int64_t j = 0; j < count; ++j) {
      tokens[j] = list != nullptr ? list[columns[first + j]] : columns[first + j];
    }
    Rows k = c_.rows(c_.in.k, batch_, g.kv_head);
    Rows v = c_.rows(c_.in.v, batch_, g.kv_head);
    k.indices = v.indices = tokens;
    k.cells = v.cells = cells_;
    float* kt = column_panels(pass.sets ? compacted(g, slot) : identity(g, slot), head);
    float* values = kt + c_.layout.panels.column_keys * dim();
    c_.kernels.pack_panel(k, v, 0, static_cast<int>(count), dim(), kt + first * dim(),
                          values + first * dim());
  });
}

void Attender::attend_columns(const RowTile& tile, const KeyRange& range, const Panels& panels,
                              const Logits& logits) const {
  const std::span<const int32_t> columns = c_.columns_of(tile.head);
  const auto rank = [&](int64_t key) {
    return std::lower_bound(columns.begin(), columns.end(), key) - columns.begin();
  };
  const KeyRange keys = {rank(range.begin), rank(range.end)};
  if (keys.begin == keys.end) return;
  int32_t limits[kTileRows];
  const int32_t* row_end = nullptr;
  const std::span<const int32_t> ends(tile.row_end, static_cast<size_t>(tile.tile.rows));
  if (!std::ranges::all_of(ends, [&](int32_t end) { return end >= range.end; })) {
    for (size_t r = 0; r < ends.size(); ++r) limits[r] = static_cast<int32_t>(rank(ends[r]));
    row_end = limits;
  }
  const float* kt = column_panels(panels, tile.head);
  const float* v = kt + c_.layout.panels.column_keys * dim();
  c_.kernels.attend(tile.tile, {kt, v, {&keys, 1}, row_end}, logits);
}

}  // namespace tokensieve::cpu
