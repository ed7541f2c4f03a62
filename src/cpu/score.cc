// Stage score of one sequence: token_score[h][j] = mean over the obs_window queries of the causal
// softmax over all keys, at prefix key j.
//
// Work is cut into fixed blocks of kBlockKeys keys, each with its own maximum and sum, so that the
// result does not depend on threads; block results are then combined in key order.
#include "cpu/score.h"

#include <algorithm>
#include <cmath>

#include "cpu/arena.h"

namespace tokensieve::cpu {
namespace {

constexpr int64_t kBlocksPerTask = 4;

// One pass: units of `heads` heads (or some query blocks of one head).
struct Pass {
  int64_t heads;
  int64_t first_block, blocks;  // query blocks of panel_cols queries
};

class Scorer {
 public:
  Scorer(Context& context, const Probe& probe, const Pass& pass)
      : c_(context), probe_(probe), buffers_(probe.buffers), pass_(pass) {
    cols_ = c_.kernels.panel_cols;
    key_blocks_ = divide_up(probe.keys, kBlockKeys);
  }

  void run() {
    const int64_t units = pass_.heads * pass_.blocks;
    const int64_t key_tasks = divide_up(key_blocks_, kBlocksPerTask);
    c_.parallel(probe_.stage, units, [&](int64_t unit, int) { pack(unit); });
    c_.parallel(probe_.stage, units * key_tasks, [&](int64_t i, int thread) {
      for_blocks(i % key_tasks, [&](int64_t block) { exponentials(i / key_tasks, block, thread); });
    });
    c_.parallel(probe_.stage, units, [&](int64_t unit, int) { weights(unit); });
    c_.parallel(probe_.stage, pass_.heads * key_tasks, [&](int64_t i, int) {
      for_blocks(i % key_tasks, [&](int64_t block) { sum(i / key_tasks, block); });
    });
    if (probe_.slashes == nullptr) return;
    c_.parallel(probe_.stage, units * key_tasks, [&](int64_t i, int) {
      for_blocks(i % key_tasks, [&](int64_t block) { distances(i / key_tasks, block); });
    });
    c_.parallel(probe_.stage, pass_.heads, [&](int64_t head, int) { sum_distances(head); });
  }

 private:
  template <typename F>
  void for_blocks(int64_t task, F&& body) const {
    const int64_t end = std::min(key_blocks_, (task + 1) * kBlocksPerTask);
    for (int64_t block = task * kBlocksPerTask; block < end; ++block) body(block);
  }

  int64_t head(int64_t unit) const { return probe_.first_head + unit / pass_.blocks; }
  const int32_t* list(int64_t unit) const { return c_.kept_of(head(unit), probe_.keep).data(); }
  int64_t rows(int64_t unit) const {
    return std::min(probe_.rows,
                    tile_grid(c_.plan, c_.kept_of(head(unit), probe_.keep)).rows());
  }
  // First query of the unit within the head's rows, and how many it has, perhaps none.
  int64_t first_query(int64_t unit) const {
    return (pass_.first_block + unit % pass_.blocks) * cols_;
  }
  int queries(int64_t unit) const {
    return static_cast<int>(std::clamp<int64_t>(rows(unit) - first_query(unit), 0, cols_));
  }
  int64_t position(int64_t unit) const { return probe_.keys - rows(unit) + first_query(unit); }
  float* qt(int64_t unit) const { return buffers_.qt + unit * c_.plan.shape.head_dim * cols_; }
  float* e(int64_t unit, int64_t block) const {
    return buffers_.e + (unit * buffers_.unit_keys + block * kBlockKeys) * cols_;
  }
  int64_t stat(int64_t unit, int64_t block) const {
    return (unit * key_blocks_ + block) * cols_;
  }
  float* slash(int64_t unit, int64_t block) const {
    return buffers_.slash + (unit * key_blocks_ + block) * (kBlockKeys + cols_);
  }
  int keys_of(int64_t block, int64_t end) const {
    return static_cast<int>(std::min<int64_t>(kBlockKeys, end - block * kBlockKeys));
  }

  void pack(int64_t unit) const {
    c_.kernels.pack_queries(c_.q_rows(probe_.batch, head(unit), list(unit)), position(unit),
                            queries(unit), c_.plan.shape.head_dim, probe_.scale, qt(unit));
  }

  void exponentials(int64_t unit, int64_t block, int thread) const {
    const int64_t first = block * kBlockKeys;
    c_.kernels.score_block(c_.k_rows(probe_.batch, head(unit), list(unit)), first,
                           keys_of(block, probe_.keys), c_.plan.shape.head_dim, qt(unit),
                           {.query = position(unit), .key = first}, probe_.softcap,
                           c_.scratch(thread).tile.q, e(unit, block),
                           buffers_.m + stat(unit, block), buffers_.l + stat(unit, block));
  }

  // Replaces the sums of every block by the factor that turns its exponentials into this query's
  // share of the mean.
  void weights(int64_t unit) const {
    const float* m = buffers_.m + stat(unit, 0);
    float* l = buffers_.l + stat(unit, 0);
    const float* sink_mass = probe_.sink_logits;
    const int count = queries(unit);
    const auto rows = static_cast<double>(this->rows(unit));
    for (int64_t i = 0; i < cols_; ++i) {
      float max = kMasked;
      for (int64_t b = 0; b < key_blocks_; ++b) max = std::max(max, m[b * cols_ + i]);
      double total = 0.0;
      if (sink_mass != nullptr) {
        max = std::max(max, sink_mass[head(unit)] * kLog2E);
        total = std::exp2(static_cast<double>(sink_mass[head(unit)] * kLog2E - max));
      }
      for (int64_t b = 0; b < key_blocks_; ++b) {
        total += l[b * cols_ + i] * std::exp2(static_cast<double>(m[b * cols_ + i] - max));
      }
      const double share = i < count ? 1.0 / (total * rows) : 0.0;
      for (int64_t b = 0; b < key_blocks_; ++b) {
        const double rise = std::exp2(static_cast<double>(m[b * cols_ + i] - max));
        l[b * cols_ + i] = share == 0.0 ? 0.0f : static_cast<float>(rise * share);
      }
    }
  }

  void sum(int64_t head_in_pass, int64_t block) const {
    const int64_t first = block * kBlockKeys;
    const int count = keys_of(block, probe_.columns);
    if (count <= 0) return;
    float* mass = probe_.mass + head_in_pass * probe_.columns + first;
    if (pass_.first_block == 0) std::fill_n(mass, count, 0.0f);
    for (int64_t b = 0; b < pass_.blocks; ++b) {
      const int64_t unit = head_in_pass * pass_.blocks + b;
      c_.kernels.score_sum(e(unit, block), count, buffers_.l + stat(unit, block), mass);
    }
  }

  void distances(int64_t unit, int64_t block) const {
    c_.kernels.slash_sum(e(unit, block), keys_of(block, probe_.keys),
                         buffers_.l + stat(unit, block), slash(unit, block));
  }

  // Neighbouring blocks share distances: added in a fixed order.
  void sum_distances(int64_t head_in_pass) const {
    float* mass = probe_.slashes + head_in_pass * probe_.keys;
    if (pass_.first_block == 0) std::fill_n(mass, probe_.keys, 0.0f);
    for (int64_t b = 0; b < pass_.blocks; ++b) {
      const int64_t unit = head_in_pass * pass_.blocks + b;
      for (int64_t block = 0; block < key_blocks_; ++block) {
        const int64_t keys = keys_of(block, probe_.keys);
        const int64_t nearest = position(unit) - (block * kBlockKeys + keys - 1);
        const int64_t begin = std::max<int64_t>(0, -nearest);
        const int64_t end = std::min(keys + cols_ - 1, probe_.keys - nearest);
        for (int64_t i = begin; i < end; ++i) mass[nearest + i] += slash(unit, block)[i];
      }
    }
  }

  Context& c_;
  const Probe& probe_;
  const ScoreBuffers& buffers_;
  Pass pass_;
  int64_t cols_;
  int64_t key_blocks_;
};

int64_t query_blocks(int64_t rows, int panel_cols) {
  return divide_up(rows, panel_cols);
}

}  // namespace

int64_t heads_at_once(const Context& context, const Probe& probe) {
  return heads_at_once(probe.buffers, probe.rows, context.kernels.panel_cols);
}

int64_t heads_at_once(const ScoreBuffers& buffers, int64_t rows, int panel_cols) {
  return std::max<int64_t>(1, buffers.units / query_blocks(rows, panel_cols));
}

void run_probe(Context& context, const Probe& probe, int64_t heads) {
  const int64_t blocks = query_blocks(probe.rows, context.kernels.panel_cols);
  const int64_t at_once = std::min(blocks, probe.buffers.units);
  for (int64_t block = 0; block < blocks; block += at_once) {
    Scorer(context, probe, {heads, block, std::min(at_once, blocks - block)}).run();
  }
}

void score_sequence(Context& context, int64_t batch) {
  const Plan& plan = context.plan;
  Probe probe = {.stage = Stage::kScore,
                 .batch = batch,
                 .keys = plan.shape.seqlen_kv,
                 .rows = plan.select.obs_window,
                 .scale = context.q_scale(),
                 .softcap = context.softcap_log2(),
                 .sink_logits = context.in.sink_logits,
                 .buffers = context.layout.score,
                 .columns = plan.prefix_len};
  const int64_t heads = plan.shape.num_q_heads;
  const int64_t at_once = heads_at_once(context, probe);
  for (int64_t head = 0; head < heads; head += at_once) {
    probe.first_head = head;
    probe.mass = context.layout.own_score + head * plan.prefix_len;
    run_probe(context, probe, std::min(at_once, heads - head));
  }
}

}  // namespace tokensieve::cpu
