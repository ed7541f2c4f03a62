// FlashPrefill: queries against the mean keys of tiles. A tile's energy is the sum of its rows'
// weights; tiles of at least alpha times the row tile's best are visited.
#include <algorithm>
#include <cmath>

#include "core/budget.h"
#include "cpu/arena.h"
#include "cpu/estimate.h"

namespace tokensieve::cpu {
namespace {

struct Buffers {
  float* means;     // [groups][mean_tiles][dim]
  float* energies;  // [threads][key_tiles]
};

Buffers take_buffers(Arena& arena, const Plan& plan) {
  Buffers buffers;
  buffers.means = arena.take<float>(key_groups(plan).count * mean_tiles(plan) *
                                    plan.shape.head_dim);
  buffers.energies =
      arena.take<float>(plan.options.num_threads * tiles_of(plan.shape.seqlen_kv));
  return buffers;
}

// Energies of a row tile relative to the largest logit so far, in one task: their order is fixed.
struct Energies {
  float* of;
  int64_t tiles = 0;
  float largest = kMasked;

  void grow(int64_t count) {
    for (; tiles < count; ++tiles) of[tiles] = 0.0f;
  }
  void raise(float logit) {
    if (!(logit > largest)) return;
    const float factor = std::exp2(largest - logit);
    for (int64_t c = 0; c < tiles; ++c) of[c] *= factor;
    largest = logit;
  }
};

class Pooled {
 public:
  Pooled(Context& context, int64_t batch, int64_t keep)
      : c_(context), batch_(batch), keep_(keep), groups_(key_groups(context.plan, keep)) {
    Arena arena(c_.layout.estimate);
    buffers_ = take_buffers(arena, c_.plan);
  }

  void run() {
    mean_keys(c_, batch_, keep_, buffers_.means);
    const int64_t masks = c_.plan.num_masks, rows = c_.plan.row_tiles;
    // The last row tile, which sees the most, first.
    c_.parallel(Stage::kEstimate, masks * rows, [&](int64_t i, int thread) {
      row_tile(i % masks, rows - 1 - i / masks, thread);
    });
  }

 private:
  const BlockConfig& blocks() const { return c_.plan.blocks; }

  void row_tile(int64_t m, int64_t t, int thread) const {
    Energies energies = {buffers_.energies + thread * tiles_of(c_.plan.shape.seqlen_kv)};
    for (int64_t head = m * c_.heads_per_mask(); head < (m + 1) * c_.heads_per_mask(); ++head) {
      add_head(head, t, thread, energies);
    }
    if (energies.tiles == 0) return;
    const std::span<const float> all(energies.of, static_cast<size_t>(energies.tiles));
    if (!all_finite(all)) return fail(c_, m);
    const double best = *std::max_element(all.begin(), all.end());
    const double least = own_threshold(c_, m, blocks().alpha) * best;
    const MaskRows mask = mask_rows(c_.mask, 0, m);
    for (int64_t k = 0; k < energies.tiles; ++k) {
      if (energies.of[k] >= least) mask.set(t, k);
    }
  }

  // Sinks, window, and all of the newest row tiles. True: that is all of row tile t.
  bool visit_forced(const TileGrid& grid, int64_t t, const MaskRows& mask) const {
    if (t >= grid.row_tiles() - blocks().last_tiles) {
      visit_all(grid, t, mask);
      return true;
    }
    for (int64_t k = 0; k < grid.end(t); ++k) {
      if (k < blocks().sink_tiles || k > grid.diagonal(t) - blocks().window_tiles) mask.set(t, k);
    }
    return false;
  }

  // V1, a mask for a head: a row counts for tiles up to its own position. V2, for several: for
  // those whose first key it sees, of the tiles that end no later than the row tile.
  void add_head(int64_t q_head, int64_t t, int thread, Energies& energies) const {
    const HeadRows head = head_rows(c_, batch_, keep_, q_head);
    const TileGrid& grid = head.grid;
    if (t >= grid.row_tiles() || visit_forced(grid, t, c_.mask_of(q_head))) return;
    const bool own = blocks().share == Share::kHead;
    const int64_t tiles = own ? grid.end(t) : grid.row_end(t) / kBlock;
    energies.grow(tiles);
    const int64_t offset = own ? kBlock - 1 : 0;
    for (int64_t row = grid.row_begin(t); row < grid.row_end(t); row += c_.kernels.panel_cols) {
      const int rows =
          static_cast<int>(std::min<int64_t>(c_.kernels.panel_cols, grid.row_end(t) - row));
      pack(head, row, rows, thread);
      for (int64_t first = 0; first < tiles; first += kBlockKeys) {
        const int count = static_cast<int>(std::min<int64_t>(kBlockKeys, tiles - first));
        add_block(groups_.of(q_head), first, count, rows,
                  {.query = row, .key = first * kBlock + offset, .step = kBlock,
                   .last = grid.keys - 1},
                  thread, energies);
      }
    }
  }

  void pack(const HeadRows& head, int64_t row, int rows, int thread) const {
    c_.kernels.pack_queries(head.q, row, rows, c_.plan.shape.head_dim, estimate_scale(c_.plan),
                            c_.scratch(thread).tile.q);
  }

  // `rows` packed queries against mean keys [first, first + count).
  void add_block(int64_t group, int64_t first, int count, int rows, const Positions& at, int thread,
                 Energies& energies) const {
    const int dim = c_.plan.shape.head_dim;
    const float* means = buffers_.means + group * mean_tiles(c_.plan) * dim;
    const Rows keys = {.base = reinterpret_cast<const char*>(means),
                       .stride_bytes = dim * static_cast<int64_t>(sizeof(float))};
    const Tile tile = c_.scratch(thread).tile;
    c_.kernels.score_block(keys, first, count, dim, tile.q, at, 0.0f, nullptr, tile.s, tile.m,
                           tile.l);
    for (int i = 0; i < rows; ++i) energies.raise(tile.m[i]);
    float* weight = tile.l;
    for (int i = 0; i < c_.kernels.panel_cols; ++i) {
      // Rows that there are not, or that see no tile, have exponentials of nothing. (A maximum does
      // not tell NaN, the sum does.)
      const bool counts = i < rows && (tile.m[i] != kMasked || std::isnan(tile.l[i]));
      weight[i] = counts ? std::exp2(tile.m[i] - energies.largest) : 0.0f;
    }
    c_.kernels.score_sum(tile.s, count, weight, energies.of + first);
  }

  Context& c_;
  int64_t batch_, keep_;
  KeyGroups groups_;
  Buffers buffers_;
};

}  // namespace

size_t pooled_bytes(const Plan& plan) {
  Arena arena(nullptr);
  take_buffers(arena, plan);
  return arena.used();
}

void estimate_pooled(Context& context, int64_t batch, int64_t keep) {
  Pooled(context, batch, keep).run();
}

}  // namespace tokensieve::cpu
