// FlexPrefill: the newest rows attend to everything; their mass says which columns and distances
// of tiles to visit or, where mean keys predict it well, which tiles.
#include <algorithm>
#include <cmath>

#include "ref/estimate.h"
#include "ref/score.h"

namespace tokensieve::ref {
namespace {

// Sums of a probe's lines over tiles: columns of a key tile, and the distances of a tile distance.
// These are counted from the far end, as in the official code: where keys is no multiple of kBlock,
// tile distance 0 has keys % kBlock of them.
Probe tile_sums(const Probe& lines) {
  const auto n = static_cast<int64_t>(lines.vertical.size());
  const int64_t tiles = tiles_of(n);
  Probe sums = {std::vector<double>(tiles), std::vector<double>(tiles)};
  for (int64_t j = 0; j < n; ++j) {
    sums.vertical[j / kBlock] += lines.vertical[j];
    sums.slash[tiles - 1 - j / kBlock] += lines.slash[n - 1 - j];
  }
  return sums;
}

// What mean keys predict for the probe's rows: a share for every key tile, without causal mask.
std::vector<double> predicted(const HeadRows& head, std::span<const double> mean_keys) {
  const std::span<const double> newest(head.query(head.grid.keys - kBlock),
                                       static_cast<size_t>(kBlock * head.dim));
  const std::vector<double> mean_query = tile_means(newest, head.dim);
  std::vector<double> p(static_cast<size_t>(head.grid.key_tiles()));
  for (size_t c = 0; c < p.size(); ++c) {
    p[c] = dot(mean_query.data(), &mean_keys[c * head.dim], head.dim);
  }
  softmax(p);
  return p;
}

// Root of the Jensen-Shannon divergence, natural logarithm. NaN as soon as a share is 0 in single
// precision, as in the official code: the head is then one of lines.
double divergence(std::span<const double> p, std::span<const double> q) {
  double sum = 0.0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (static_cast<float>(p[i]) == 0.0f || static_cast<float>(q[i]) == 0.0f) return std::nan("");
    const double middle = (p[i] + q[i]) / 2;
    sum += (p[i] * std::log(p[i] / middle) + q[i] * std::log(q[i] / middle)) / 2;
  }
  return std::sqrt(std::max(0.0, sum));
}

void visit_lines(const TileGrid& grid, const Probe& sums, int64_t verticals, int64_t slashes,
                 const MaskRows& mask) {
  const std::vector<int64_t> columns = top_tiles(sums.vertical, verticals);
  const std::vector<int64_t> distances = top_tiles(sums.slash, slashes);
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    for (int64_t c : columns) {
      if (c < grid.end(t)) mask.set(t, c);
    }
    for (int64_t distance : distances) {
      for (int64_t c : {grid.end(t) - 1 - distance, grid.diagonal(t) - distance}) {
        if (c >= 0) mask.set(t, c);
      }
    }
  }
}

// The largest tiles of the map of mean queries and mean keys: gamma of its mass, which is 1 a row
// tile, without the tile that crosses it.
bool visit_map(const HeadRows& head, std::span<const double> mean_keys, double gamma,
               const MaskRows& mask) {
  const TileGrid& grid = head.grid;
  const std::vector<double> mean_queries = tile_means(head.q, head.dim);
  std::vector<double> map;
  std::vector<std::pair<int64_t, int64_t>> tiles;  // of the map's entries
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    std::vector<double> p(static_cast<size_t>(grid.end(t)));
    for (int64_t c = 0; c < grid.end(t); ++c) {
      p[c] = dot(&mean_queries[t * head.dim], &mean_keys[c * head.dim], head.dim);
      tiles.emplace_back(t, c);
    }
    softmax(p);
    map.insert(map.end(), p.begin(), p.end());
  }
  if (!all_finite(map)) return false;
  const std::vector<int64_t> order = descending(map);
  const auto count = static_cast<size_t>(cover_count(map, gamma) - 1);
  for (size_t i = 0; i < count; ++i) mask.set(tiles[order[i]].first, tiles[order[i]].second);
  return true;
}

}  // namespace

bool flex(const HeadRows& head, const BlockConfig& blocks, double gamma, const MaskRows& mask) {
  const TileGrid& grid = head.grid;
  const int64_t least = std::max<int64_t>(1, tiles_of(blocks.min_budget));
  if (grid.keys <= std::max<int64_t>(2, least) * kBlock || grid.rows() < kBlock) {
    for (int64_t t = 0; t < grid.row_tiles(); ++t) visit_all(grid, t, mask);
    return true;
  }
  int64_t most = grid.key_tiles();
  if (blocks.max_budget > 0) most = std::min(most, tiles_of(blocks.max_budget));

  const Probe lines = probe(head, kBlock);
  const Probe sums = tile_sums(lines);
  const std::vector<double> mean_keys = tile_means(head.k, head.dim);
  const std::vector<double> prediction = predicted(head, mean_keys);
  if (!all_finite(sums.vertical) || !all_finite(prediction)) return false;

  if (divergence(prediction, sums.vertical) < blocks.flex_tau) {
    visit_lines(grid, sums, least, least, mask);
    return visit_map(head, mean_keys, gamma, mask);
  }
  const auto budget = [&](const std::vector<double>& mass) {
    return std::min(std::max(cover_count(mass, gamma) / kBlock + 1, least), most);
  };
  visit_lines(grid, sums, budget(lines.vertical), budget(lines.slash), mask);
  return true;
}

}  // namespace tokensieve::ref
