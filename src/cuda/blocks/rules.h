// Arithmetic of the estimators, which the host runs too (tests/cuda/estimate_host_test.cc).
#pragma once

#include "core/tiles.h"
#include "cuda/select/fixed_point.h"
#include "tokensieve/blocks.h"

namespace tokensieve::cuda {

// Bits of word `word` for tiles below `end`.
TOKENSIEVE_HOST_DEVICE uint32_t tiles_below(int64_t end, int64_t word) {
  const int64_t left = end - 32 * word;
  return left >= 32 ? ~0u : left <= 0 ? 0u : (1u << left) - 1;
}
// For tiles from `begin` on.
TOKENSIEVE_HOST_DEVICE uint32_t tiles_from(int64_t begin, int64_t word) {
  return ~tiles_below(begin, word);
}

// What `share` of a mass leaves, rounded: nothing for a share of 1.
TOKENSIEVE_HOST_DEVICE uint64_t rest_of(uint64_t total, double share) {
  const double rest = (1.0 - share) * static_cast<double>(total) + 0.5;
  return rest >= 1.0 ? static_cast<uint64_t>(rest) : 0;  // NaN: nothing
}

// ---- kFlex

TOKENSIEVE_HOST_DEVICE int64_t flex_least(const BlockConfig& config) {
  return tiles_of(config.min_budget > 0 ? config.min_budget : 1);
}

// Shorter sequences, and those without a whole probe, visit every tile.
TOKENSIEVE_HOST_DEVICE bool flex_runs(const BlockConfig& config, const TileGrid& grid) {
  const int64_t least = flex_least(config) * kBlock;
  return grid.keys > 2 * kBlock && grid.keys > least && grid.rows() >= kBlock;
}

// Tiles of lines of a kind, of which `cover` cover gamma.
TOKENSIEVE_HOST_DEVICE int64_t flex_tiles(const BlockConfig& config, int64_t cover,
                                          int64_t key_tiles) {
  int64_t count = cover / kBlock + 1;
  if (count < flex_least(config)) count = flex_least(config);
  if (config.max_budget > 0 && count > tiles_of(config.max_budget)) {
    count = tiles_of(config.max_budget);
  }
  return count < key_tiles ? count : key_tiles;
}

// Column means and distance sums of the probe, whose rows are the last kBlock positions. Key tile
// c's diagonal u holds the pairs of probe row i and key 128 c + i + 127 - u.
struct ProbeLines {
  const float* verticals;
  const float* diagonals;
  int keys;

  // A distance lies on diagonals of two neighbouring tiles.
  TOKENSIEVE_HOST_DEVICE float slash(int distance) const {
    const int offset = distance - keys + 255;  // of tile 0; + 128 a tile
    const int tiles = (keys + kBlock - 1) / kBlock;
    const int first = offset < 0 ? (-offset + kBlock - 1) / kBlock : 0;
    float sum = 0.0f;
    for (int tile = first; tile < first + 2; ++tile) {
      const int u = offset + tile * kBlock;
      if (tile < tiles && u < 255) sum += diagonals[static_cast<int64_t>(tile) * 256 + u];
    }
    return sum;
  }
  TOKENSIEVE_HOST_DEVICE float line(bool slashes, int i) const {
    return slashes ? slash(i) : verticals[i];
  }
  // The first line of block `block`, which may be negative, and the first of the next: columns of
  // a tile, or the distances that the published code pools for a tile distance.
  TOKENSIEVE_HOST_DEVICE int block_begin(bool slashes, int block) const {
    const int tiles = (keys + kBlock - 1) / kBlock;
    const int last = keys - kBlock * (tiles - 1);  // keys of the last tile
    return slashes ? kBlock * block + last - kBlock : kBlock * block;
  }
};

// 32 bits from bit `from` on, which may be negative, of `words` words.
TOKENSIEVE_HOST_DEVICE uint32_t bits_from(const uint32_t* bits, int words, int64_t from) {
  const int64_t word = from >= 0 ? from / 32 : -((31 - from) / 32);
  const int shift = static_cast<int>(from - 32 * word);
  const uint32_t low = word >= 0 && word < words ? bits[word] : 0;
  const uint32_t high = word + 1 >= 0 && word + 1 < words ? bits[word + 1] : 0;
  return shift == 0 ? low : low >> shift | high << (32 - shift);
}
TOKENSIEVE_HOST_DEVICE uint32_t reversed(uint32_t x) {
#ifdef __CUDA_ARCH__
  return __brev(x);
#else
  uint32_t result = 0;
  for (int bit = 0; bit < 32; ++bit) result |= (x >> bit & 1u) << (31 - bit);
  return result;
#endif
}

// Word `word` of row tile t: chosen key tiles, and chosen tile distances from both tiles of its
// diagonal.
TOKENSIEVE_HOST_DEVICE uint32_t line_word(const TileGrid& grid, int64_t t, const uint32_t* columns,
                                          const uint32_t* distances, int words, int word) {
  const auto slashes = [&](int64_t diagonal) {
    return reversed(bits_from(distances, words, diagonal - 32 * int64_t{word} - 31));
  };
  return (columns[word] | slashes(grid.end(t) - 1) | slashes(grid.diagonal(t))) &
         tiles_below(grid.end(t), word);
}

// ---- kPooled

// Tiles that a row tile visits whatever its energies.
TOKENSIEVE_HOST_DEVICE uint32_t pooled_forced(const BlockConfig& config, const TileGrid& grid,
                                              int64_t t, int64_t word) {
  const int64_t end = grid.end(t);
  if (t >= grid.row_tiles() - config.last_tiles) return tiles_below(end, word);
  const int64_t window = grid.diagonal(t) - config.window_tiles + 1;
  return (tiles_below(config.sink_tiles, word) | tiles_from(window > 0 ? window : 0, word)) &
         tiles_below(end, word);
}

// First position of a query that is held against the mean key of tile c: of one head, the tile's
// last key; of several, its first one.
TOKENSIEVE_HOST_DEVICE int64_t pooled_first_query(const TileGrid& grid, int64_t c, bool shared) {
  if (shared) return c * kBlock;
  const int64_t last = c * kBlock + kBlock - 1;
  return last < grid.keys ? last : grid.keys - 1;
}
// Tiles from here on are not scored.
TOKENSIEVE_HOST_DEVICE int64_t pooled_scored(const TileGrid& grid, int64_t t, bool shared) {
  return shared ? grid.row_end(t) / kBlock : grid.end(t);
}

// ---- kAntidiagonal: groups of `stride` rows, from the first row on, and of keys

TOKENSIEVE_HOST_DEVICE int64_t row_groups(const TileGrid& grid, int stride) {
  return (grid.rows() + stride - 1) / stride;
}
// Key groups that row group g sees.
TOKENSIEVE_HOST_DEVICE int64_t seen_groups(const TileGrid& grid, int64_t group, int stride) {
  const int64_t seen = (grid.first_row + stride - 1) / stride + group + 1;
  const int64_t all = (grid.keys + stride - 1) / stride;
  return seen < all ? seen : all;
}
TOKENSIEVE_HOST_DEVICE bool antidiagonal_forced(const TileGrid& grid, int64_t t, int64_t c) {
  return c == 0 || (c >= grid.diagonal(t) && c < grid.end(t));
}

}  // namespace tokensieve::cuda
