// Stage score of one sequence: token_score[h][j] = mean over the obs_window queries of the causal
// softmax over all keys, at prefix key j.
//
// Work is cut into fixed blocks of kBlockKeys keys, each with its own maximum and sum, so that the
// result does not depend on threads; block results are then combined in key order.
#include <algorithm>
#include <cmath>

#include "cpu/context.h"

namespace tokensieve::cpu {
namespace {

constexpr int64_t kBlocksPerTask = 4;

// One pass: units of `heads` heads (or some query blocks of one head).
struct Pass {
  int64_t batch;
  int64_t first_head, heads;
  int64_t first_block, blocks;  // query blocks of panel_cols queries
};

class Scorer {
 public:
  Scorer(Context& context, const Pass& pass) : c_(context), pass_(pass) {
    const AttentionShape& s = c_.plan.shape;
    cols_ = c_.kernels.panel_cols;
    key_blocks_ = (s.seqlen_kv + kBlockKeys - 1) / kBlockKeys;
  }

  void run() {
    const int64_t units = pass_.heads * pass_.blocks;
    const int64_t key_tasks = (key_blocks_ + kBlocksPerTask - 1) / kBlocksPerTask;
    c_.parallel(Stage::kScore, units, [&](int64_t unit, int) { pack(unit); });
    c_.parallel(Stage::kScore, units * key_tasks, [&](int64_t i, int thread) {
      for_blocks(i % key_tasks, [&](int64_t block) { exponentials(i / key_tasks, block, thread); });
    });
    c_.parallel(Stage::kScore, units, [&](int64_t unit, int) { weights(unit); });
    c_.parallel(Stage::kScore, pass_.heads * key_tasks, [&](int64_t i, int) {
      for_blocks(i % key_tasks, [&](int64_t block) { sum(i / key_tasks, block); });
    });
  }

 private:
  template <typename F>
  void for_blocks(int64_t task, F&& body) const {
    const int64_t end = std::min(key_blocks_, (task + 1) * kBlocksPerTask);
    for (int64_t block = task * kBlocksPerTask; block < end; ++block) body(block);
  }

  int64_t head(int64_t unit) const { return pass_.first_head + unit / pass_.blocks; }
  // First query of the unit within the obs_window rows, and how many it has.
  int64_t first_query(int64_t unit) const {
    return (pass_.first_block + unit % pass_.blocks) * cols_;
  }
  int queries(int64_t unit) const {
    return static_cast<int>(
        std::min<int64_t>(cols_, c_.plan.select.obs_window - first_query(unit)));
  }
  float* qt(int64_t unit) const {
    return c_.layout.score.qt + unit * c_.plan.shape.head_dim * cols_;
  }
  float* e(int64_t unit, int64_t block) const {
    return c_.layout.score.e + (unit * c_.layout.score.unit_keys + block * kBlockKeys) * cols_;
  }
  int64_t stat(int64_t unit, int64_t block) const {
    return (unit * key_blocks_ + block) * cols_;
  }

  void pack(int64_t unit) const {
    const AttentionShape& s = c_.plan.shape;
    const int64_t first = s.seqlen_q - c_.plan.select.obs_window + first_query(unit);
    c_.kernels.pack_queries(c_.rows(c_.in.q, pass_.batch, head(unit)), first, queries(unit),
                            s.head_dim, c_.q_scale(), qt(unit));
  }

  void exponentials(int64_t unit, int64_t block, int thread) const {
    const AttentionShape& s = c_.plan.shape;
    Rows k = c_.rows(c_.in.k, pass_.batch, head(unit) / (s.num_q_heads / s.num_kv_heads));
    k.cells = c_.in.kv_indices ? c_.in.kv_indices + pass_.batch * s.seqlen_kv : nullptr;
    const int64_t first = block * kBlockKeys;
    const int count = static_cast<int>(std::min<int64_t>(kBlockKeys, s.seqlen_kv - first));
    const int64_t first_pos = s.seqlen_kv - c_.plan.select.obs_window + first_query(unit);
    c_.kernels.score_block(k, first, count, s.head_dim, qt(unit), first_pos, c_.softcap_log2(),
                           c_.scratch(thread).tile.q, e(unit, block),
                           c_.layout.score.m + stat(unit, block),
                           c_.layout.score.l + stat(unit, block));
  }

  // Replaces the sums of every block by the factor that turns its exponentials into this query's
  // share of the mean.
  void weights(int64_t unit) const {
    const float* m = c_.layout.score.m + stat(unit, 0);
    float* l = c_.layout.score.l + stat(unit, 0);
    const float* sink_mass = c_.in.sink_logits;
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
      const double share = i < queries(unit) ? 1.0 / (total * c_.plan.select.obs_window) : 0.0;
      for (int64_t b = 0; b < key_blocks_; ++b) {
        const double rise = std::exp2(static_cast<double>(m[b * cols_ + i] - max));
        l[b * cols_ + i] = share == 0.0 ? 0.0f : static_cast<float>(rise * share);
      }
    }
  }

  void sum(int64_t head_in_pass, int64_t block) const {
    const int64_t prefix = c_.plan.prefix_len;
    const int64_t first = block * kBlockKeys;
    const int count = static_cast<int>(std::min<int64_t>(kBlockKeys, prefix - first));
    if (count <= 0) return;
    float* score = c_.layout.own_score + (pass_.first_head + head_in_pass) * prefix + first;
    if (pass_.first_block == 0) std::fill_n(score, count, 0.0f);
    for (int64_t b = 0; b < pass_.blocks; ++b) {
      const int64_t unit = head_in_pass * pass_.blocks + b;
      c_.kernels.score_sum(e(unit, block), count, c_.layout.score.l + stat(unit, block), score);
    }
  }

  Context& c_;
  Pass pass_;
  int64_t cols_;
  int64_t key_blocks_;
};

}  // namespace

void score_sequence(Context& context, int64_t batch) {
  const int64_t heads = context.plan.shape.num_q_heads;
  const int64_t blocks = query_blocks(context.plan, context.kernels.panel_cols);
  const int64_t units = context.layout.score.units;
  const int64_t heads_at_once = std::max<int64_t>(1, units / blocks);
  const int64_t blocks_at_once = std::min(blocks, units);
  for (int64_t head = 0; head < heads; head += heads_at_once) {
    for (int64_t block = 0; block < blocks; block += blocks_at_once) {
      Scorer(context, {batch, head, std::min(heads_at_once, heads - head), block,
                       std::min(blocks_at_once, blocks - block)})
          .run();
    }
  }
}

}  // namespace tokensieve::cpu
