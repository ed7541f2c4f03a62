// FlexPrefill: the newest rows attend to everything; their mass says which columns and distances of
// tiles to visit or, where mean keys predict it well, which tiles.
#include <algorithm>
#include <cmath>

#include "core/budget.h"
#include "cpu/arena.h"
#include "cpu/estimate.h"
#include "cpu/score.h"
#include "cpu/tile_map.h"

namespace tokensieve::cpu {
namespace {

struct Buffers {
  float* means;           // [groups][mean_tiles][dim]: mean keys
  TileMap map;
  uint32_t* query_aware;  // [num_q_heads]
  // A head's choice of lines, [threads] each.
  float* lines;        // [keys]: scratch
  double* prediction;  // [key_tiles]
  double* sums;        // [2][key_tiles]: mass of vertical tiles and tile distances
  float* tiles;        // [2][key_tiles]: scratch
  int32_t* taken;      // [key_tiles]
  ScoreBuffers probe;
  float* mass;     // [heads at once][keys] by key
  float* slashes;  // [heads at once][keys] by distance
};

// What grows with length first; the rest is bounded by kPhaseBytes.
Buffers take_buffers(Arena& arena, const Plan& plan, const Kernels& kernels) {
  const int64_t keys = plan.shape.seqlen_kv, threads = plan.options.num_threads;
  const int64_t tiles = tiles_of(keys);
  Buffers buffers;
  buffers.means =
      arena.take<float>(key_groups(plan).count * mean_tiles(plan) * plan.shape.head_dim);
  buffers.map = TileMap(arena, plan, kernels);
  buffers.query_aware = arena.take<uint32_t>(plan.shape.num_q_heads);
  buffers.lines = arena.take<float>(threads * keys);
  buffers.prediction = arena.take<double>(threads * tiles);
  buffers.sums = arena.take<double>(threads * 2 * tiles);
  buffers.tiles = arena.take<float>(threads * 2 * tiles);
  buffers.taken = arena.take<int32_t>(threads * tiles);
  buffers.probe = take_probe(arena, plan, kernels.panel_cols, kBlock);
  const int64_t heads = heads_at_once(buffers.probe, kBlock, kernels.panel_cols);
  buffers.mass = arena.take<float>(heads * keys);
  buffers.slashes = arena.take<float>(heads * keys);
  return buffers;
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

void softmax(std::span<double> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (double& x : logits) sum += x = std::exp(x - max);
  for (double& x : logits) x /= sum;
}

class Flex {
 public:
  Flex(Context& context, int64_t batch, int64_t keep)
      : c_(context), batch_(batch), keep_(keep), groups_(key_groups(context.plan, keep)) {
    Arena arena(c_.layout.estimate);
    buffers_ = take_buffers(arena, c_.plan, c_.kernels);
    keys_ = rows_of(0).grid.keys;
    tiles_ = tiles_of(keys_);
    least_ = std::max<int64_t>(1, tiles_of(blocks().min_budget));
    most_ = tiles_;
    if (blocks().max_budget > 0) most_ = std::min(most_, tiles_of(blocks().max_budget));
  }

  void run() {
    const int64_t heads = c_.plan.shape.num_q_heads;
    if (keys_ <= std::max<int64_t>(2, least_) * kBlock) {
      c_.parallel(Stage::kEstimate, heads, [&](int64_t head, int) { visit_head(head); });
      return;
    }
    mean_keys(c_, batch_, keep_, buffers_.means);
    Probe probe = {.stage = Stage::kEstimate,
                   .batch = batch_,
                   .keep = keep_,
                   .keys = keys_,
                   .rows = kBlock,
                   .scale = estimate_scale(c_.plan),
                   .buffers = buffers_.probe,
                   .columns = keys_,
                   .mass = buffers_.mass,
                   .slashes = buffers_.slashes};
    const int64_t at_once = heads_at_once(c_, probe);
    for (int64_t head = 0; head < heads; head += at_once) {
      probe.first_head = head;
      const int64_t count = std::min(at_once, heads - head);
      run_probe(c_, probe, count);
      c_.parallel(Stage::kEstimate, count,
                  [&](int64_t i, int thread) { choose_lines(head + i, i, thread); });
    }
    for (int64_t head = 0; head < heads && !c_.cancelled; ++head) {
      if (buffers_.query_aware[head] == 0) continue;
      buffers_.map.visit(c_, rows_of(head), means(head), gamma(head), head);
    }
  }

 private:
  const BlockConfig& blocks() const { return c_.plan.blocks; }
  int dim() const { return c_.plan.shape.head_dim; }
  HeadRows rows_of(int64_t head) const { return head_rows(c_, batch_, keep_, head); }
  double gamma(int64_t head) const { return own_threshold(c_, head, blocks().gamma); }
  const float* means(int64_t head) const {
    return buffers_.means + groups_.of(head) * mean_tiles(c_.plan) * dim();
  }
  // A thread's part of an array.
  template <typename T>
  std::span<T> part(T* base, int64_t size, int thread) const {
    return {base + thread * size, static_cast<size_t>(size)};
  }

  void visit_head(int64_t head) const {
    const TileGrid grid = rows_of(head).grid;
    for (int64_t t = 0; t < grid.row_tiles(); ++t) visit_all(grid, t, c_.mask_of(head));
  }

  void choose_lines(int64_t head, int64_t in_pass, int thread) const {
    buffers_.query_aware[head] = 0;
    const HeadRows rows = rows_of(head);
    if (rows.grid.rows() < kBlock) return visit_head(head);
    const auto size = static_cast<size_t>(keys_);
    const std::span<const float> vertical(buffers_.mass + in_pass * keys_, size);
    const std::span<const float> slash(buffers_.slashes + in_pass * keys_, size);
    const std::span<double> sums = part(buffers_.sums, 2 * tiles_, thread);
    const std::span<double> prediction = part(buffers_.prediction, tiles_, thread);
    predict(rows, head, thread, prediction);
    const bool finite = std::all_of(prediction.begin(), prediction.end(),
                                    [](double p) { return std::isfinite(p); });
    if (!finite || !all_finite(vertical) || !all_finite(slash)) return fail(c_, head);

    // Tile distances are counted from the far end, as in the official code: where keys is no
    // multiple of kBlock, tile distance 0 has keys % kBlock of them.
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t j = 0; j < keys_; ++j) {
      sums[j / kBlock] += vertical[j];
      sums[2 * tiles_ - 1 - j / kBlock] += slash[keys_ - 1 - j];
    }
    if (divergence(prediction, sums.first(tiles_)) < blocks().flex_tau) {
      buffers_.query_aware[head] = 1;
      visit_lines(rows.grid, head, least_, least_, sums, thread);
    } else {
      visit_lines(rows.grid, head, budget(vertical, head, thread), budget(slash, head, thread),
                  sums, thread);
    }
  }

  // What mean keys predict for the probe's rows: a share for every key tile, without causal mask.
  void predict(const HeadRows& rows, int64_t head, int thread, std::span<double> shares) const {
    const Tile tile = c_.scratch(thread).tile;
    mean_row(c_.kernels, rows.q, keys_ - kBlock, kBlock, dim(), c_.plan.shape.sm_scale, tile.q,
             tile.o);
    for (int64_t k = 0; k < tiles_; ++k) {
      const float* mean = means(head) + k * dim();
      shares[k] = 0.0;
      for (int d = 0; d < dim(); ++d) shares[k] += static_cast<double>(tile.o[d]) * mean[d];
    }
    softmax(shares);
  }

  // Tiles of the lines that cover gamma of the mass.
  int64_t budget(std::span<const float> mass, int64_t head, int thread) const {
    const std::span<float> lines = part(buffers_.lines, keys_, thread);
    std::copy(mass.begin(), mass.end(), lines.begin());
    const int64_t count = 1 + largest_within(lines, share_of(fixed_sum(mass), gamma(head)));
    return std::min(std::max(count / kBlock + 1, least_), most_);
  }

  // The first tile and the largest others, ascending.
  std::span<const int32_t> top_tiles(std::span<const double> mass, int64_t count,
                                     int thread) const {
    const std::span<float> ranked = part(buffers_.tiles, 2 * tiles_, thread);
    std::copy(mass.begin(), mass.end(), ranked.begin());
    const std::span<int32_t> taken = part(buffers_.taken, tiles_, thread);
    count = std::min(count, tiles_);
    top_tokens(ranked.first(tiles_), count, 1, false, ranked.last(tiles_), taken.data());
    return taken.first(count);
  }

  void visit_lines(const TileGrid& grid, int64_t head, int64_t verticals, int64_t slashes,
                   std::span<const double> sums, int thread) const {
    const MaskRows mask = c_.mask_of(head);
    for (const int32_t k : top_tiles(sums.first(tiles_), verticals, thread)) {
      for (int64_t t = 0; t < grid.row_tiles(); ++t) {
        if (k < grid.end(t)) mask.set(t, k);
      }
    }
    for (const int32_t distance : top_tiles(sums.last(tiles_), slashes, thread)) {
      for (int64_t t = 0; t < grid.row_tiles(); ++t) {
        for (const int64_t k : {grid.end(t) - 1 - distance, grid.diagonal(t) - distance}) {
          if (k >= 0) mask.set(t, k);
        }
      }
    }
  }

  Context& c_;
  int64_t batch_, keep_;
  KeyGroups groups_;
  Buffers buffers_;
  int64_t keys_, tiles_, least_, most_;
};

}  // namespace

size_t flex_bytes(const Plan& plan, const Kernels& kernels) {
  Arena arena(nullptr);
  take_buffers(arena, plan, kernels);
  return arena.used();
}

void estimate_flex(Context& context, int64_t batch, int64_t keep) {
  Flex(context, batch, keep).run();
}

}  // namespace tokensieve::cpu
