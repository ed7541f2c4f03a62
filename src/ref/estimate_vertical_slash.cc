// MInference: the newest rows attend to everything; their mass says which columns and which
// distances of (query, key) pairs to visit.
#include <algorithm>
#include <limits>

#include "ref/estimate.h"

namespace tokensieve::ref {
namespace {

// The `count` largest of a probe's lines, the first `forced` before all others, ascending.
std::vector<int32_t> top_lines(std::span<const double> mass, int64_t count, int64_t forced) {
  std::vector<double> ranked;
  for (int64_t value : fixed_point(mass)) ranked.push_back(static_cast<double>(value));
  std::fill_n(ranked.begin(), std::min<int64_t>(forced, std::ssize(ranked)),
              std::numeric_limits<double>::infinity());
  const std::vector<int64_t> order = descending(ranked);
  std::vector<int32_t> lines(order.begin(), order.begin() + count);
  std::sort(lines.begin(), lines.end());
  return lines;
}

}  // namespace

bool vertical_slash(const HeadRows& head, const VerticalSlashSizes& sizes, const MaskRows& mask,
                    std::vector<int32_t>& columns) {
  const TileGrid& grid = head.grid;
  const Probe mass = probe(head, std::min(kVerticalSlashProbe, grid.rows()));
  if (!all_finite(mass.vertical) || !all_finite(mass.slash)) return false;
  columns = top_lines(mass.vertical, sizes.verticals, kForcedVerticals);
  for (const int64_t distance : top_lines(mass.slash, sizes.slashes, kForcedSlashes)) {
    for (int64_t t = 0; t < grid.row_tiles(); ++t) {
      const int64_t first = std::max(grid.row_begin(t), distance);
      for (int64_t row = first; row < grid.row_end(t); ++row) {
        mask.set(t, (row - distance) / kBlock);
      }
    }
  }
  return true;
}

}  // namespace tokensieve::ref
