// FlashPrefill: queries against the mean keys of tiles. A tile's energy is the sum of its rows'
// weights; tiles of at least alpha times the row tile's best are visited.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "ref/estimate.h"
#include "ref/score.h"

namespace tokensieve::ref {
namespace {

// Sums of exp(logit) by tile, relative to the largest logit.
class Energies {
 public:
  void add(int64_t tile, double logit) {
    logits_.emplace_back(tile, logit);
    largest_ = std::max(largest_, logit);
  }
  std::vector<double> of(int64_t tiles) const {
    std::vector<double> energy(static_cast<size_t>(tiles), 0.0);
    for (const auto& [tile, logit] : logits_) energy[tile] += std::exp(logit - largest_);
    return energy;
  }

 private:
  std::vector<std::pair<int64_t, double>> logits_;
  double largest_ = -std::numeric_limits<double>::infinity();
};

// Sinks, window, and all of the newest row tiles. True: that is all of row tile t.
bool visit_forced(const TileGrid& grid, const BlockConfig& blocks, int64_t t,
                  const MaskRows& mask) {
  if (t >= grid.row_tiles() - blocks.last_tiles) {
    visit_all(grid, t, mask);
    return true;
  }
  for (int64_t c = 0; c < grid.end(t); ++c) {
    if (c < blocks.sink_tiles || c > grid.diagonal(t) - blocks.window_tiles) mask.set(t, c);
  }
  return false;
}

bool visit_strong(std::span<const double> energy, double alpha, int64_t t, const MaskRows& mask) {
  if (energy.empty()) return true;
  if (!all_finite(energy)) return false;
  const double least = alpha * *std::max_element(energy.begin(), energy.end());
  for (size_t c = 0; c < energy.size(); ++c) {
    if (energy[c] >= least) mask.set(t, static_cast<int64_t>(c));
  }
  return true;
}

}  // namespace

// V1: a row counts for the tiles that lie wholly before it or end with it.
bool pooled(const HeadRows& head, const BlockConfig& blocks, double alpha, const MaskRows& mask) {
  const TileGrid& grid = head.grid;
  const std::vector<double> mean_keys = tile_means(head.k, head.dim);
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    if (visit_forced(grid, blocks, t, mask)) continue;
    Energies energies;
    for (int64_t position = grid.row_begin(t); position < grid.row_end(t); ++position) {
      for (int64_t c = 0; c < grid.end(t); ++c) {
        if (std::min((c + 1) * kBlock, grid.keys) - 1 > position) break;
        energies.add(c, dot(head.query(position), &mean_keys[c * head.dim], head.dim));
      }
    }
    if (!visit_strong(energies.of(grid.end(t)), alpha, t, mask)) return false;
  }
  return true;
}

// V2: a mask for several heads. A row counts for the tiles whose first key it sees, out of those
// that end no later than the row tile.
bool pooled_shared(std::span<const HeadRows> heads, const BlockConfig& blocks, double alpha,
                   const MaskRows& mask) {
  std::vector<std::vector<double>> mean_keys;
  int64_t row_tiles = 0;
  for (const HeadRows& head : heads) {
    mean_keys.push_back(tile_means(head.k, head.dim));
    row_tiles = std::max(row_tiles, head.grid.row_tiles());
  }
  for (int64_t t = 0; t < row_tiles; ++t) {
    Energies energies;
    int64_t scored = 0;  // tiles
    for (size_t h = 0; h < heads.size(); ++h) {
      const HeadRows& head = heads[h];
      const TileGrid& grid = head.grid;
      // In a chunk, heads that keep tokens of their own may differ in rows.
      if (t >= grid.row_tiles() || visit_forced(grid, blocks, t, mask)) continue;
      const int64_t whole = grid.row_end(t) / kBlock;
      scored = std::max(scored, whole);
      for (int64_t position = grid.row_begin(t); position < grid.row_end(t); ++position) {
        for (int64_t c = 0; c < whole && c * kBlock <= position; ++c) {
          energies.add(c, dot(head.query(position), &mean_keys[h][c * head.dim], head.dim));
        }
      }
    }
    if (!visit_strong(energies.of(scored), alpha, t, mask)) return false;
  }
  return true;
}

}  // namespace tokensieve::ref
