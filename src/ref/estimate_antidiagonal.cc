// XAttention: groups of `stride` tokens against each other, by the sum along an antidiagonal of
// their products. Per row tile the fewest tiles that hold a share of its mass are visited.
#include <algorithm>

#include "ref/estimate.h"
#include "ref/score.h"

namespace tokensieve::ref {
namespace {

// Logits of the rows from `begin` on against every group of keys that begins no later than they
// end. Rows and keys that a last group lacks count as zeros.
std::vector<double> group_logits(const HeadRows& head, int64_t begin, int64_t stride) {
  const int64_t n = head.grid.keys;
  std::vector<double> logits;
  for (int64_t key = 0; key < n && key < begin + stride; key += stride) {
    double sum = 0.0;
    for (int64_t i = 0; i < stride; ++i) {
      const int64_t row = begin + stride - 1 - i;
      if (row < n && key + i < n) sum += dot(head.query(row), head.key(key + i), head.dim);
    }
    logits.push_back(sum / static_cast<double>(stride));
  }
  return logits;
}

// Probabilities of row tile t's groups, summed over the groups of each key tile.
std::vector<double> tile_sums(const HeadRows& head, int64_t t, int64_t stride) {
  std::vector<double> sums(static_cast<size_t>(head.grid.end(t)), 0.0);
  for (int64_t row = head.grid.row_begin(t); row < head.grid.row_end(t); row += stride) {
    std::vector<double> p = group_logits(head, row, stride);
    softmax(p);
    for (size_t group = 0; group < p.size(); ++group) {
      sums[static_cast<int64_t>(group) * stride / kBlock] += p[group];
    }
  }
  return sums;
}

}  // namespace

bool antidiagonal(const HeadRows& head, const BlockConfig& blocks, double threshold,
                  const MaskRows& mask) {
  const TileGrid& grid = head.grid;
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    const std::vector<double> sums = tile_sums(head, t, blocks.stride);
    if (!all_finite(sums)) return false;
    const std::vector<int64_t> mass = fixed_point(sums);
    int64_t total = 0, covered = 0;
    for (int64_t c = 0; c < grid.end(t); ++c) {
      total += mass[c];
      if (c != 0 && c < grid.diagonal(t)) continue;
      mask.set(t, c);
      covered += mass[c];
    }
    const int64_t required = share_of(total, threshold);
    for (int64_t c : descending(sums)) {
      if (covered >= required) break;
      if (mask.get(t, c)) continue;
      mask.set(t, c);
      covered += mass[c];
    }
  }
  return true;
}

}  // namespace tokensieve::ref
