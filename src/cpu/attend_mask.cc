// Row tiles against packed keys: the kernels of the plan's products, and what block masks list.
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
    for (int64_t key_tile = range.begin / kBlock; key_tile < end; ++key_tile) {
      if (!lists(tile.mask, key_tile)) continue;
      const int64_t first = key_tile;
      while (key_tile < end && lists(tile.mask, key_tile)) ++key_tile;
      const KeyRange run = {std::max(range.begin, first * kBlock),
                            std::min(range.end, key_tile * kBlock)};
      c_.kernels.attend(tile.tile, {panels.kt, panels.v, {&run, 1}, tile.row_end}, logits);
    }
  }
}

}  // namespace tokensieve::cpu
