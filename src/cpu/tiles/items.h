// The order in which a call of the tile kernels goes over its keys.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/tiles.h"
#include "cpu/tiles/tiles.h"

namespace tokensieve::cpu {

// One part against keys [begin, end) of one block.
struct Item {
  int part = -1;
  int64_t block = 0;
  int first = 0;  // column of S that is computed first, cols in all: multiples of 32
  int cols = 0;
  int64_t begin = 0, end = 0;
  bool exact = false;  // runs in f32
};

// The keys of one part, in ascending order.
class PartKeys {
 public:
  PartKeys() = default;
  PartKeys(const RowTile& tile, int first_row, int rows, const TileBlocks& blocks, bool exact)
      : tile_(&tile), unfit_(blocks.unfit), exact_(exact) {
    end_ = tile.num_ranges > 0 ? tile.ranges[tile.num_ranges - 1].end : 0;
    const int32_t* row_end = tile.row_end + first_row;
    end_ = std::min<int64_t>(end_, *std::max_element(row_end, row_end + rows));
  }

  int64_t first() const { return tile_->num_ranges > 0 ? tile_->ranges[0].begin : end_; }
  int64_t end() const { return end_; }

  // The next keys in `block`, which never descends; false: none, or no more of them.
  bool next(int64_t block, Item& item) {
    const int64_t block_end = std::min(end_, (block + 1) * kBlockKeys);
    at_ = std::max(at_, block * kBlockKeys);
    while (range_ < tile_->num_ranges && at_ < block_end) {
      const KeyRange& range = tile_->ranges[range_];
      at_ = std::max(at_, range.begin);
      const int64_t limit = std::min(block_end, range.end);
      if (at_ >= limit) {
        if (at_ < range.end) return false;
        ++range_;
        continue;
      }
      const int64_t stop = std::min(limit, (at_ / kBlock + 1) * kBlock);
      if (!listed(at_)) {
        at_ = stop;
        continue;
      }
      fill(block, limit, item);
      return true;
    }
    return false;
  }

 private:
  bool listed(int64_t key) const {
    return tile_->mask == nullptr || lists(tile_->mask, key / kBlock);
  }
  bool runs_exact(int64_t key) const { return exact_ || unfit_[key / kPanelKeys] != 0; }

  // As many keys from at_ on as are listed, and of one kind.
  void fill(int64_t block, int64_t limit, Item& item) {
    item.begin = at_;
    item.exact = runs_exact(at_);
    do {
      at_ = std::min(limit, (at_ / kPanelKeys + 1) * kPanelKeys);
    } while (at_ < limit && listed(at_) && runs_exact(at_) == item.exact);
    item.end = at_;
    item.block = block;
    item.first = static_cast<int>(item.begin % kBlockKeys / 32 * 32);
    item.cols = static_cast<int>(round_up(item.end - block * kBlockKeys, 32)) - item.first;
  }

  const RowTile* tile_ = nullptr;
  const uint8_t* unfit_ = nullptr;
  bool exact_ = false;
  int64_t end_ = 0;
  int64_t at_ = 0;
  int range_ = 0;
};

// Block by block, and within a block part by part: packed keys are read once for all parts.
class Items {
 public:
  Items(PartKeys* parts, int count) : parts_(parts), count_(count) {
    block_ = INT64_MAX;
    for (int i = 0; i < count; ++i) {
      block_ = std::min(block_, parts[i].first() / kBlockKeys);
      end_ = std::max(end_, divide_up(parts[i].end(), kBlockKeys));
    }
  }

  bool next(Item& item) {
    for (; block_ < end_; ++block_, part_ = 0) {
      for (; part_ < count_; ++part_) {
        if (!parts_[part_].next(block_, item)) continue;
        item.part = part_;
        return true;
      }
    }
    return false;
  }

 private:
  PartKeys* parts_;
  int count_;
  int part_ = 0;
  int64_t block_ = 0, end_ = 0;
};

}  // namespace tokensieve::cpu
