#include "ref/estimate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ref/elements.h"
#include "ref/score.h"

namespace tokensieve::ref {
namespace {

HeadRows load_head(const Plan& plan, const AttentionInputs& inputs, int64_t b,
                   const Selection& selection, int64_t q_head) {
  const AttentionShape& s = plan.shape;
  std::span<const int32_t> kept;
  if (!selection.dense()) kept = selection.kept_of(plan, q_head);
  HeadRows head = {.grid = tile_grid(plan, kept), .dim = s.head_dim};
  head.q.resize(static_cast<size_t>(head.grid.rows() * head.dim));
  head.k.resize(static_cast<size_t>(head.grid.keys * head.dim));
  const int64_t kv_head = q_head * s.num_kv_heads / s.num_q_heads;
  for (int64_t r = 0; r < head.grid.keys; ++r) {
    const int64_t token = kept.empty() ? r : kept[r];
    const int64_t k_row = inputs.kv_indices ? inputs.kv_indices[b * s.seqlen_kv + token] : token;
    load_row(inputs.k, b, k_row, kv_head, &head.k[r * head.dim]);
    if (r < head.grid.first_row) continue;
    const int64_t q_row = token - (s.seqlen_kv - s.seqlen_q);
    load_row(inputs.q, b, q_row, q_head, &head.q[(r - head.grid.first_row) * head.dim]);
  }
  for (double& x : head.q) x *= static_cast<double>(s.sm_scale);
  return head;
}

bool estimate_mask(const Plan& plan, const AttentionInputs& inputs, int64_t m,
                   std::span<const HeadRows> heads, const MaskRows& mask,
                   std::vector<int32_t>& columns) {
  const BlockConfig& c = plan.blocks;
  switch (c.pattern) {
    case BlockPattern::kFlex:
      return flex(heads[0], c, own_threshold(inputs, m, c.gamma), mask);
    case BlockPattern::kPooled: {
      const double alpha = own_threshold(inputs, m, c.alpha);
      return c.share == Share::kHead ? pooled(heads[0], c, alpha, mask)
                                     : pooled_shared(heads, c, alpha, mask);
    }
    case BlockPattern::kVerticalSlash: {
      const int32_t* own = inputs.block_sizes ? inputs.block_sizes + 2 * m : nullptr;
      return vertical_slash(heads[0], vertical_slash_sizes(c, own, heads[0].grid.keys), mask,
                            columns);
    }
    default:
      return antidiagonal(heads[0], c, own_threshold(inputs, m, c.threshold), mask);
  }
}

}  // namespace

double own_threshold(const AttentionInputs& inputs, int64_t m, double common) {
  return inputs.block_thresholds != nullptr ? inputs.block_thresholds[m] : common;
}

void visit_all(const TileGrid& grid, int64_t t, const MaskRows& mask) {
  for (int64_t c = 0; c < grid.end(t); ++c) mask.set(t, c);
}

void estimate(const Plan& plan, const AttentionInputs& inputs, int64_t b,
              const Selection& selection, int64_t m, const MaskRows& mask,
              std::vector<int32_t>& columns) {
  const int64_t heads_per_mask = plan.shape.num_q_heads / plan.num_masks;
  std::vector<HeadRows> heads;
  for (int64_t i = 0; i < heads_per_mask; ++i) {
    heads.push_back(load_head(plan, inputs, b, selection, m * heads_per_mask + i));
  }
  if (estimate_mask(plan, inputs, m, heads, mask, columns)) return;
  for (const HeadRows& head : heads) {
    for (int64_t t = 0; t < head.grid.row_tiles(); ++t) visit_all(head.grid, t, mask);
  }
}

Probe probe(const HeadRows& head, int64_t rows) {
  const int64_t n = head.grid.keys;
  Probe mass = {std::vector<double>(n), std::vector<double>(n)};
  for (int64_t position = n - rows; position < n; ++position) {
    std::vector<double> p(static_cast<size_t>(position + 1));
    for (int64_t j = 0; j <= position; ++j) {
      p[j] = dot(head.query(position), head.key(j), head.dim);
    }
    softmax(p);
    for (int64_t j = 0; j <= position; ++j) {
      mass.vertical[j] += p[j] / static_cast<double>(rows);
      mass.slash[position - j] += p[j] / static_cast<double>(rows);
    }
  }
  return mass;
}

std::vector<double> tile_means(std::span<const double> x, int64_t dim) {
  const int64_t rows = static_cast<int64_t>(x.size()) / dim;
  std::vector<double> means(static_cast<size_t>(tiles_of(rows) * dim), 0.0);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t tile = r / kBlock;
    const auto size = static_cast<double>(std::min<int64_t>(kBlock, rows - tile * kBlock));
    for (int64_t d = 0; d < dim; ++d) means[tile * dim + d] += x[r * dim + d] / size;
  }
  return means;
}

bool all_finite(std::span<const double> x) {
  return std::all_of(x.begin(), x.end(), [](double value) { return std::isfinite(value); });
}

int64_t fixed_point(double x) { return std::llround(std::ldexp(x, 48)); }

std::vector<int64_t> fixed_point(std::span<const double> x) {
  std::vector<int64_t> result;
  for (double value : x) result.push_back(fixed_point(value));
  return result;
}

int64_t share_of(int64_t total, double share) {
  return total - std::llround((1.0 - share) * static_cast<double>(total));
}

std::vector<int64_t> descending(std::span<const double> values) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return values[a] > values[b]; });
  return order;
}

int64_t cover_count(std::span<const double> values, double share) {
  std::vector<int64_t> sorted = fixed_point(values);
  std::sort(sorted.rbegin(), sorted.rend());
  const int64_t mass =
      share_of(std::accumulate(sorted.begin(), sorted.end(), int64_t{0}), share);
  int64_t count = 1, sum = 0;
  for (int64_t value : sorted) {
    sum += value;
    if (sum > mass) break;
    ++count;
  }
  return count;
}

std::vector<int64_t> top_tiles(std::span<const double> values, int64_t count) {
  std::vector<double> ranked(values.begin(), values.end());
  ranked[0] = std::numeric_limits<double>::infinity();
  std::vector<int64_t> order = descending(ranked);
  order.resize(std::min(order.size(), static_cast<size_t>(count)));
  return order;
}

}  // namespace tokensieve::ref
