// Stages budget and select of one sequence: the rules are in core/budget.h, this spreads them over
// the executor.
#include <algorithm>
#include <numeric>

#include "core/budget.h"
#include "core/plan.h"
#include "cpu/context.h"

namespace tokensieve::cpu {
namespace {

constexpr int64_t kChunk = 4096;  // tokens of a task that works across heads

// Fills in the scores of other ranks' heads.
void gather_scores(Context& c) {
  if (c.plan.options.num_ranks == 1 || c.cancelled) return;
  const size_t bytes =
      static_cast<size_t>(c.plan.shape.num_q_heads * c.plan.prefix_len) * sizeof(float);
  c.timed(Stage::kBudget, [&] {
    c.gather_failed = !c.options.all_gather(c.options.gather_context, c.layout.token_score, bytes,
                                            c.options.stream);
  });
  if (c.gather_failed) c.cancelled.store(true);
}

// Smooths every head of the layer; false if a score is NaN or infinite.
bool smooth_heads(Context& c) {
  const int64_t prefix = c.plan.prefix_len;
  std::atomic<bool> finite{true};
  c.parallel(Stage::kBudget, layer_heads(c.plan), [&](int64_t head, int) {
    const std::span<const float> score(c.layout.token_score + head * prefix,
                                       static_cast<size_t>(prefix));
    if (!all_finite(score)) finite.store(false, std::memory_order_relaxed);
    smooth(score, c.plan.select.pool_width, c.plan.select.arithmetic,
           {c.layout.select.pooled + head * prefix, static_cast<size_t>(prefix)});
  });
  return finite.load();
}

// Mean over heads [head, head + count) into `mean`.
void mean_heads(Context& c, Stage stage, int64_t head, int64_t count, double* mean) {
  const int64_t prefix = c.plan.prefix_len;
  c.parallel(stage, (prefix + kChunk - 1) / kChunk, [&](int64_t chunk, int) {
    const int64_t first = chunk * kChunk;
    const int64_t size = std::min(kChunk, prefix - first);
    mean_rows(c.layout.select.pooled + head * prefix + first, count, prefix,
              c.plan.select.arithmetic, {mean + first, static_cast<size_t>(size)});
  });
}

int64_t tokens_to_drop(Context& c) {
  if (c.plan.select.budget != BudgetPolicy::kTau) return 0;
  double* mean = c.layout.select.mean;
  mean_heads(c, Stage::kBudget, 0, layer_heads(c.plan), mean);
  int64_t drop = 0;
  c.parallel(Stage::kBudget, 1, [&](int64_t, int) {
    drop = drop_count({mean, static_cast<size_t>(c.plan.prefix_len)}, c.plan.select.tau,
                      c.plan.select.arithmetic);
  });
  return drop;
}

// Per-head sets rank each head's own score; shared ones the mean of their heads.
void select_sets(Context& c, int64_t keep, int32_t* indices, int64_t keep_capacity) {
  const SelectConfig& select = c.plan.select;
  const int64_t prefix = c.plan.prefix_len;
  const auto [first, heads_per_set] = set_heads(c.plan);
  const bool own = heads_per_set == 1;
  float* ranked = c.layout.select.pooled + (own ? first * prefix : 0);
  if (!own) {
    // Set s reads rows first + s * heads_per_set onwards and writes row s: never one still to be
    // read.
    for (int64_t set = 0; set < c.plan.num_sets; ++set) {
      double* mean = c.layout.select.mean;
      mean_heads(c, Stage::kSelect, first + set * heads_per_set, heads_per_set, mean);
      std::transform(mean, mean + prefix, ranked + set * prefix,
                     [](double value) { return static_cast<float>(value); });
    }
  }
  const bool normalise = own && select.arithmetic == Arithmetic::kReferenceRounding;
  c.parallel(Stage::kSelect, c.plan.num_sets, [&](int64_t set, int thread) {
    const std::span<const float> score(ranked + set * prefix, static_cast<size_t>(prefix));
    const std::span<float> scratch(c.layout.select.scratch + thread * prefix,
                                   static_cast<size_t>(prefix));
    int32_t* row = indices + set * keep_capacity;
    top_tokens(score, keep, select.protect_first, normalise, scratch, row);
    std::iota(row + keep, row + keep + c.plan.shape.seqlen_kv - prefix,
              static_cast<int32_t>(prefix));
  });
}

}  // namespace

int64_t select_sequence(Context& context, int32_t* indices, int64_t keep_capacity,
                        DenseReason* reason) {
  *reason = DenseReason::kNone;
  gather_scores(context);
  if (!smooth_heads(context)) {
    *reason = DenseReason::kNonFiniteScore;
    return -1;
  }
  const int64_t drop = tokens_to_drop(context);
  const int64_t keep = keep_count(context.plan.select, context.plan.prefix_len, drop);
  *reason = dense_after_budget(context.plan, keep);
  if (*reason != DenseReason::kNone) return -1;
  select_sets(context, keep, indices, keep_capacity);
  return keep;
}

}  // namespace tokensieve::cpu
