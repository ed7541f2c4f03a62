// XAttention: groups of `stride` tokens against each other, by the sum along an antidiagonal of
// their products. Per row tile the fewest tiles that hold a share of its mass are visited.
//
// A group of keys is one row of stride * head_dim, so the sum is a product of such rows, those of
// queries in reverse order of their tokens.
#include <algorithm>
#include <cmath>

#include "core/budget.h"
#include "cpu/arena.h"
#include "cpu/estimate.h"

namespace tokensieve::cpu {
namespace {

struct Buffers {
  int64_t groups;   // whose keys are held at once
  int64_t keys_of;  // tokens of a group, with padding
  float* keys;      // [groups][keys_of][dim]
  // [threads] each:
  float* qt;          // [stride][dim][panel_cols]
  int32_t* tokens;    // [panel_cols]
  float* sums;        // [key_tiles][panel_cols]: exponentials of a key tile's groups
  float* max;         // [key blocks][panel_cols]
  float* weight;      // [key blocks][panel_cols]: sums, then what makes exponentials shares
  float* mass;        // [row tiles of a task][key_tiles]
  float* ranked;      // [key_tiles]
  int32_t* chosen;    // [key_tiles]
};

// Row tiles of a task: those of one block of panel_cols row groups, at least one.
int64_t tiles_of_task(const Plan& plan, int cols) {
  return std::max<int64_t>(1, cols * plan.blocks.stride / kBlock);
}

int64_t groups_of(const Plan& plan, int64_t tokens) {
  return divide_up(tokens, plan.blocks.stride);
}

int64_t key_blocks(const Plan& plan) {
  return divide_up(groups_of(plan, plan.shape.seqlen_kv), kBlockKeys);
}

// What grows with length first; the rest is bounded by kPhaseBytes.
Buffers take_buffers(Arena& arena, const Plan& plan, const Kernels& kernels) {
  const int64_t threads = plan.options.num_threads, cols = kernels.panel_cols;
  const int64_t tiles = tiles_of(plan.shape.seqlen_kv), dim = plan.shape.head_dim;
  Buffers buffers;
  buffers.qt = arena.take<float>(threads * plan.blocks.stride * dim * cols);
  buffers.tokens = arena.take<int32_t>(threads * cols);
  buffers.sums = arena.take<float>(threads * tiles * cols);
  buffers.max = arena.take<float>(threads * key_blocks(plan) * cols);
  buffers.weight = arena.take<float>(threads * key_blocks(plan) * cols);
  buffers.mass = arena.take<float>(threads * tiles_of_task(plan, kernels.panel_cols) * tiles);
  buffers.ranked = arena.take<float>(threads * tiles);
  buffers.chosen = arena.take<int32_t>(threads * tiles);
  buffers.keys_of =
      (groups_of(plan, plan.shape.seqlen_kv) + kRowPadding) * plan.blocks.stride;
  const int64_t bytes = buffers.keys_of * dim * static_cast<int64_t>(sizeof(float));
  buffers.groups = std::clamp<int64_t>(kPhaseBytes / bytes, 1, key_groups(plan).count);
  buffers.keys = arena.take<float>(buffers.groups * buffers.keys_of * dim);
  return buffers;
}

class Antidiagonal {
 public:
  Antidiagonal(Context& context, int64_t batch, int64_t keep)
      : c_(context), batch_(batch), keep_(keep), groups_(key_groups(context.plan, keep)) {
    Arena arena(c_.layout.estimate);
    buffers_ = take_buffers(arena, c_.plan, c_.kernels);
    cols_ = c_.kernels.panel_cols;
    stride_ = c_.plan.blocks.stride;
    tiles_ = tiles_of(c_.plan.shape.seqlen_kv);
    key_blocks_ = key_blocks(c_.plan);
    task_tiles_ = tiles_of_task(c_.plan, c_.kernels.panel_cols);
  }

  void run() {
    const int64_t per_group = groups_.q_heads / groups_.count;
    const int64_t tasks = divide_up(c_.plan.row_tiles, task_tiles_);
    for (int64_t first = 0; first < groups_.count; first += buffers_.groups) {
      const int64_t count = std::min(buffers_.groups, groups_.count - first);
      load_keys(first, count);
      const int64_t heads = count * per_group;
      // The last rows, which see the most, first.
      c_.parallel(Stage::kEstimate, heads * tasks, [&](int64_t i, int thread) {
        const int64_t in_pass = i % heads;
        row_tiles(first * per_group + in_pass, in_pass / per_group,
                  (tasks - 1 - i / heads) * task_tiles_, thread);
      });
    }
  }

 private:
  int dim() const { return c_.plan.shape.head_dim; }
  float* keys(int64_t slot) const { return buffers_.keys + slot * buffers_.keys_of * dim(); }
  template <typename T>
  T* part(T* base, int64_t size, int thread) const {
    return base + thread * size;
  }
  float* mass(int64_t tile, int thread) const {
    return part(buffers_.mass, task_tiles_ * tiles_, thread) + tile * tiles_;
  }

  // Keys of the pass's groups as f32; what the last group lacks is zero.
  void load_keys(int64_t first, int64_t count) {
    constexpr int64_t kTokensPerTask = 1024;  // whole groups
    const int64_t tasks = divide_up(c_.plan.shape.seqlen_kv, kTokensPerTask);
    c_.parallel(Stage::kEstimate, count * tasks, [&](int64_t i, int) {
      const int64_t slot = i / tasks, begin = i % tasks * kTokensPerTask;
      const HeadRows head = head_rows(c_, batch_, keep_, groups_.first_head(first + slot));
      const int64_t tokens = std::min(kTokensPerTask, head.grid.keys - begin);
      if (tokens <= 0) return;
      float* at = keys(slot) + begin * dim();
      c_.kernels.load_rows(head.k, begin, static_cast<int>(tokens), dim(), 1.0f, at);
      std::fill(at + tokens * dim(), at + round_up(tokens, stride_) * dim(), 0.0f);
    });
  }

  void row_tiles(int64_t q_head, int64_t slot, int64_t first, int thread) const {
    const HeadRows head = head_rows(c_, batch_, keep_, q_head);
    const TileGrid& grid = head.grid;
    const int64_t count = std::min(task_tiles_, grid.row_tiles() - first);
    if (count <= 0) return;
    std::fill_n(mass(0, thread), count * tiles_, 0.0f);
    const int64_t end = grid.row_end(first + count - 1);
    for (int64_t row = grid.row_begin(first); row < end; row += cols_ * stride_) {
      const int64_t groups = std::min<int64_t>(cols_, groups_of(c_.plan, end - row));
      pack_queries(head, row, groups, thread);
      const int64_t visible = exponentials(grid, slot, row, groups, thread);
      weights(visible, groups, thread);
      add_mass((row - grid.row_begin(first)) / stride_, groups, visible, thread);
    }
    for (int64_t i = 0; i < count; ++i) choose(grid, q_head, first + i, mass(i, thread), thread);
  }

  // `groups` row groups from position `row` on; rows that the last group lacks are zero.
  void pack_queries(const HeadRows& head, int64_t row, int64_t groups, int thread) const {
    int32_t* tokens = part(buffers_.tokens, cols_, thread);
    float* qt = part(buffers_.qt, stride_ * dim() * cols_, thread);
    Rows q = head.q;
    q.indices = tokens;
    const float scale = estimate_scale(c_.plan) / static_cast<float>(stride_);
    for (int64_t i = 0; i < stride_; ++i, qt += dim() * cols_) {
      int count = 0;
      const int64_t first = row + stride_ - 1 - i;
      for (int64_t at = first; count < groups && at < head.grid.keys; at += stride_) {
        tokens[count++] = head.q.indices ? head.q.indices[at] : static_cast<int32_t>(at);
      }
      if (count == 0) std::fill_n(qt, dim() * cols_, 0.0f);
      c_.kernels.pack_queries(q, 0, count, dim(), scale, qt);
    }
  }

  // Fills sums, max and weight (with sums) of every key group that the row groups see, which are so
  // many.
  int64_t exponentials(const TileGrid& grid, int64_t slot, int64_t row, int64_t groups,
                       int thread) const {
    const Rows rows = {.base = reinterpret_cast<const char*>(keys(slot)),
                       .stride_bytes = stride_ * dim() * static_cast<int64_t>(sizeof(float))};
    const int64_t own = groups_of(c_.plan, row);  // the last key group that the first sees
    const int64_t visible = std::min(groups_of(c_.plan, grid.keys), own + groups);
    const int64_t per_tile = kBlock / stride_;
    float* e = c_.scratch(thread).tile.s;
    for (int64_t first = 0; first < visible; first += kBlockKeys) {
      const int count = static_cast<int>(std::min<int64_t>(kBlockKeys, visible - first));
      const int64_t block = first / kBlockKeys;
      c_.kernels.score_block(rows, first, count, static_cast<int>(stride_ * dim()),
                             part(buffers_.qt, stride_ * dim() * cols_, thread),
                             {.query = own, .key = first}, 0.0f, nullptr, e,
                             part(buffers_.max, key_blocks_ * cols_, thread) + block * cols_,
                             part(buffers_.weight, key_blocks_ * cols_, thread) + block * cols_);
      for (int64_t j = 0; j < count; j += per_tile) {
        float* sums =
            part(buffers_.sums, tiles_ * cols_, thread) + (first + j) / per_tile * cols_;
        std::fill_n(sums, cols_, 0.0f);
        for (int64_t k = j; k < std::min<int64_t>(count, j + per_tile); ++k) {
          for (int64_t i = 0; i < cols_; ++i) sums[i] += e[k * cols_ + i];
        }
      }
    }
    return visible;
  }

  // Of every key block, the factor that turns its exponentials into shares of a row group.
  void weights(int64_t visible, int64_t groups, int thread) const {
    const float* max = part(buffers_.max, key_blocks_ * cols_, thread);
    float* weight = part(buffers_.weight, key_blocks_ * cols_, thread);
    const int64_t end = divide_up(visible, kBlockKeys) * cols_;
    for (int64_t i = 0; i < groups; ++i) {
      float most = kMasked;
      for (int64_t at = i; at < end; at += cols_) most = std::max(most, max[at]);
      double total = 0.0;
      for (int64_t at = i; at < end; at += cols_) {
        total += weight[at] * std::exp2(static_cast<double>(max[at] - most));
      }
      for (int64_t at = i; at < end; at += cols_) {
        weight[at] =
            static_cast<float>(std::exp2(static_cast<double>(max[at] - most)) / total);
      }
    }
  }

  // Adds row groups from the task's group `begin` on to the mass of its row tiles.
  void add_mass(int64_t begin, int64_t groups, int64_t visible, int thread) const {
    const int64_t per_tile = kBlock / stride_;
    const float* weights = part(buffers_.weight, key_blocks_ * cols_, thread);
    for (int64_t k = 0; k * per_tile < visible; ++k) {
      const float* sums = part(buffers_.sums, tiles_ * cols_, thread) + k * cols_;
      const float* weight = weights + k * per_tile / kBlockKeys * cols_;
      for (int64_t i = 0; i < groups; ++i) {
        mass((begin + i) / per_tile, thread)[k] += sums[i] * weight[i];
      }
    }
  }

  // The first tile, those of the diagonal, and the fewest others that hold the rest of the share.
  void choose(const TileGrid& grid, int64_t head, int64_t t, const float* mass, int thread) const {
    const int64_t end = grid.end(t), diagonal = grid.diagonal(t);
    const std::span<const float> all(mass, static_cast<size_t>(end));
    if (!all_finite(all)) return fail(c_, head);
    const MaskRows mask = c_.mask_of(head);
    mask.set(t, 0);
    for (int64_t k = diagonal; k < end; ++k) mask.set(t, k);
    if (diagonal <= 1) return;
    const std::span<const float> others = all.subspan(1, diagonal - 1);
    const std::span<float> ranked(part(buffers_.ranked, tiles_, thread), others.size());
    const int64_t total = fixed_sum(all), rest = fixed_sum(others);
    const double threshold = own_threshold(c_, head, c_.plan.blocks.threshold);
    const int64_t missing = share_of(total, threshold) - (total - rest);
    if (missing <= 0) return;
    std::copy(others.begin(), others.end(), ranked.begin());
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(others.size()),
                                            largest_within(ranked, missing - 1) + 1);
    int32_t* chosen = part(buffers_.chosen, tiles_, thread);
    top_tokens(others, count, 0, false, ranked, chosen);
    for (int64_t i = 0; i < count; ++i) mask.set(t, 1 + chosen[i]);
  }

  Context& c_;
  int64_t batch_, keep_;
  KeyGroups groups_;
  Buffers buffers_;
  int64_t cols_, stride_, tiles_, key_blocks_, task_tiles_;
};

}  // namespace

size_t antidiagonal_bytes(const Plan& plan, const Kernels& kernels) {
  Arena arena(nullptr);
  take_buffers(arena, plan, kernels);
  return arena.used();
}

void estimate_antidiagonal(Context& context, int64_t batch, int64_t keep) {
  Antidiagonal(context, batch, keep).run();
}

}  // namespace tokensieve::cpu
