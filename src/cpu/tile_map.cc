#include "cpu/tile_map.h"

#include <algorithm>
#include <cmath>

#include "core/budget.h"

namespace tokensieve::cpu {

TileMap::TileMap(Arena& arena, const Plan& plan, const Kernels& kernels) {
  const int64_t size = plan.row_tiles * tiles_of(plan.shape.seqlen_kv);
  mean_queries_ = arena.take<float>(plan.row_tiles * plan.shape.head_dim);
  map_ = arena.take<float>(size);
  ranked_ = arena.take<float>(size);
  chosen_ = arena.take<int32_t>(size);
  stats_ = arena.take<float>(plan.options.num_threads * 2 * kernels.panel_cols);
}

void TileMap::visit(Context& context, const HeadRows& head, const float* mean_keys, double gamma,
                    int64_t m) const {
  const TileGrid& grid = head.grid;
  const int64_t rows = grid.row_tiles(), cols = context.kernels.panel_cols;
  const int dim = context.plan.shape.head_dim;
  context.parallel(Stage::kEstimate, rows, [&](int64_t t, int thread) {
    mean_row(context.kernels, head.q, grid.row_begin(t), grid.row_end(t) - grid.row_begin(t), dim,
             1.0f, context.scratch(thread).tile.q, mean_queries_ + t * dim);
  });
  context.parallel(Stage::kEstimate, divide_up(rows, cols), [&](int64_t i, int thread) {
    const int64_t count = std::min(cols, rows - i * cols);
    fill_rows(context, grid, mean_keys, i * cols, static_cast<int>(count), thread);
  });
  context.parallel(Stage::kEstimate, 1, [&](int64_t, int) { choose(context, grid, gamma, m); });
}

// Rows [first, first + count): softmax over the tiles that a row tile sees, which are one more for
// each.
void TileMap::fill_rows(Context& context, const TileGrid& grid, const float* mean_keys,
                        int64_t first, int count, int thread) const {
  const int dim = context.plan.shape.head_dim, cols = context.kernels.panel_cols;
  const int64_t tiles = grid.key_tiles();
  const Tile tile = context.scratch(thread).tile;
  const auto rows = [&](const float* x) {
    return Rows{.base = reinterpret_cast<const char*>(x),
                .stride_bytes = dim * static_cast<int64_t>(sizeof(float))};
  };
  context.kernels.pack_queries(rows(mean_queries_), first, count, dim,
                               estimate_scale(context.plan), tile.q);
  float* largest = stats_ + thread * 2 * cols;
  float* total = largest + cols;
  std::fill_n(largest, cols, kMasked);
  std::fill_n(total, cols, 0.0f);
  for (int64_t k = 0; k < tiles; k += kBlockKeys) {
    const int keys = static_cast<int>(std::min<int64_t>(kBlockKeys, tiles - k));
    context.kernels.score_block(rows(mean_keys), k, keys, dim, tile.q,
                                {.query = grid.end(0) - 1 + first, .key = k}, 0.0f, nullptr,
                                tile.s, tile.m, tile.l);
    for (int i = 0; i < count; ++i) {
      float* row = map_ + (first + i) * tiles;
      const float max = std::max(largest[i], tile.m[i]);
      const float before = std::exp2(largest[i] - max), now = std::exp2(tile.m[i] - max);
      for (int64_t j = 0; j < k; ++j) row[j] *= before;
      for (int64_t j = 0; j < keys; ++j) row[k + j] = now * tile.s[j * cols + i];
      total[i] = total[i] * before + tile.l[i] * now;
      largest[i] = max;
    }
  }
  for (int i = 0; i < count; ++i) {
    float* row = map_ + (first + i) * tiles;
    for (int64_t j = 0; j < tiles; ++j) row[j] /= total[i];
  }
}

void TileMap::choose(Context& context, const TileGrid& grid, double gamma, int64_t m) const {
  const auto size = static_cast<size_t>(grid.row_tiles() * grid.key_tiles());
  const std::span<const float> map(map_, size);
  const std::span<float> ranked(ranked_, size);
  if (!all_finite(map)) return fail(context, m);
  std::copy(map.begin(), map.end(), ranked.begin());
  const int64_t count = largest_within(ranked, share_of(fixed_sum(map), gamma));
  top_tokens(map, count, 0, false, ranked, chosen_);
  const MaskRows mask = mask_rows(context.mask, 0, m);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t t = chosen_[i] / grid.key_tiles(), k = chosen_[i] % grid.key_tiles();
    if (k < grid.end(t)) mask.set(t, k);  // a share of 1 takes zeros above the diagonal, too
  }
}

}  // namespace tokensieve::cpu
