// Block masks in attend: which packed keys a row tile visits.
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

void Attender::attend_keys(const Tile& tile, const Panels& panels, const KeyRange& range,
                           const int32_t* row_end, const Logits& logits, int64_t head,
                           int64_t row_tile) const {
  const auto visit = [&](const KeyRange& keys) {
    c_.kernels.attend(tile, {panels.kt, panels.v, {&keys, 1}, row_end}, logits);
  };
  if (c_.mask.bits == nullptr) return visit(range);
  const MaskRows mask = c_.mask_of(head);
  // Adjacent tiles make one run, so that a full row visits what it does without a mask. Rows end at
  // their limits: runs of bits beyond do nothing.
  const int64_t end = tiles_of(range.end);
  for (int64_t key_tile = range.begin / kBlock; key_tile < end; ++key_tile) {
    if (!mask.get(row_tile, key_tile)) continue;
    const int64_t first = key_tile;
    while (key_tile < end && mask.get(row_tile, key_tile)) ++key_tile;
    visit({std::max(range.begin, first * kBlock), std::min(range.end, key_tile * kBlock)});
  }
}

}  // namespace tokensieve::cpu
