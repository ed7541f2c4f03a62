// The grid of 128 x 128 tiles of a sequence: of its queries and keys or, with selected tokens, of
// its compact rows and keys. The one place that says where row tiles begin and what they reach.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "tokensieve/attention.h"

namespace tokensieve {

constexpr int64_t tiles_of(int64_t tokens) { return (tokens + kBlock - 1) / kBlock; }
constexpr int64_t mask_words_of(int64_t key_tiles) { return (key_tiles + 31) / 32; }

// Rows are the last of the keys: row r is key first_row + r.
struct TileGrid {
  int64_t first_row = 0;  // keys before the first row
  int64_t keys = 0;

  constexpr int64_t rows() const { return keys - first_row; }
  constexpr int64_t row_tiles() const { return tiles_of(rows()); }
  constexpr int64_t key_tiles() const { return tiles_of(keys); }
  // Positions of row tile t: [row_begin, row_end).
  constexpr int64_t row_begin(int64_t t) const { return first_row + t * kBlock; }
  constexpr int64_t row_end(int64_t t) const { return std::min(keys, row_begin(t + 1)); }
  // Key tiles on the diagonal of row tile t: [diagonal(t), end(t)), two where first_row is not a
  // multiple of kBlock. Tiles from end(t) on hold no visible pair.
  constexpr int64_t diagonal(int64_t t) const { return row_begin(t) / kBlock; }
  constexpr int64_t end(int64_t t) const { return tiles_of(row_end(t)); }
};

// Whether a row tile's words list a key tile.
inline bool lists(const uint32_t* row, int64_t key_tile) {
  return (row[key_tile / 32] >> (key_tile % 32) & 1) != 0;
}

// Bits of one sequence and mask.
struct MaskRows {
  uint32_t* bits = nullptr;
  int64_t words = 0;

  bool get(int64_t row_tile, int64_t key_tile) const {
    return lists(bits + row_tile * words, key_tile);
  }
  void set(int64_t row_tile, int64_t key_tile) const {
    bits[row_tile * words + key_tile / 32] |= uint32_t{1} << (key_tile % 32);
  }
};

// The grid of a query head: of its kept tokens, or of all if `kept` is empty.
TileGrid tile_grid(const Plan& plan, std::span<const int32_t> kept);

struct TileRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// Key tiles with pairs that row tile t sees in the pass that a mask steers: up to the diagonal or,
// with local fill, from the sinks to the begin of its last row's window.
TileRange visible_tiles(const Plan& plan, const TileGrid& grid, std::span<const int32_t> kept,
                        int64_t t);

struct TileCount {
  int64_t visited = 0;
  int64_t visible = 0;
  int64_t columns = 0;  // of row tiles in visible tiles that they do not visit

  // Visited / visible tiles; a column is a 128th of a tile.
  double density() const {
    if (visible == 0) return 1.0;
    return static_cast<double>(visited * kBlock + columns) / static_cast<double>(visible * kBlock);
  }
  TileCount& operator+=(const TileCount& other);
};
// columns: of kVerticalSlash, in the coordinates of the mask.
TileCount count_tiles(const Plan& plan, std::span<const int32_t> kept, const MaskRows& mask,
                      std::span<const int32_t> columns = {});

// kVerticalSlash: newest rows that its estimate looks at, or all if they are fewer, and how many of
// the first keys and nearest distances are always chosen.
inline constexpr int64_t kVerticalSlashProbe = 64;
inline constexpr int64_t kForcedVerticals = 30;
inline constexpr int64_t kForcedSlashes = 100;

// How many columns and distances a head of `keys` keys has. sizes: its own (block_sizes), or null.
struct VerticalSlashSizes {
  int64_t verticals = 0;
  int64_t slashes = 0;
};
VerticalSlashSizes vertical_slash_sizes(const BlockConfig& blocks, const int32_t* sizes,
                                        int64_t keys);

inline MaskRows mask_rows(const BlockMask& mask, int64_t batch, int64_t index) {
  return {mask.bits + (batch * mask.num_masks + index) * mask.row_tiles * mask.words, mask.words};
}

}  // namespace tokensieve
