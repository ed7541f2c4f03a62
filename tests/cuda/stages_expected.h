// Kept tokens for scores as the device rounds them: core/budget.h, with exact sums where core's
// kReferenceRounding adds in f32.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <span>
#include <vector>

#include "core/budget.h"
#include "core/plan.h"

namespace tokensieve::cuda::test {

struct ExpectedSets {
  int64_t count;                           // the sequence's length: dense
  std::vector<std::vector<int32_t>> sets;  // [num_sets], empty if dense
};

inline double exact_sum(const std::vector<double>& x) {
  return std::accumulate(x.begin(), x.end(), 0.0);
}

// bf16(x / bf16(bf16(sum) + 1e-8)).
inline void normalise(std::vector<double>& x) {
  const float divisor = round_bf16(round_bf16(static_cast<float>(exact_sum(x))) + 1e-8f);
  for (double& value : x) value = round_bf16(static_cast<float>(value) / divisor);
}

// As tokensieve::drop_count.
inline int64_t exact_drop(std::vector<double> mean, const SelectConfig& select) {
  double limit = select.tau;
  if (select.arithmetic == Arithmetic::kReferenceRounding) {
    normalise(mean);
    limit = static_cast<float>(select.tau);
  } else {
    limit *= exact_sum(mean) + 1e-8;
  }
  std::sort(mean.begin(), mean.end());
  double running = 0.0;
  int64_t drop = 0;
  for (double value : mean) {
    running += value;
    if (!(running < limit)) break;
    ++drop;
  }
  return drop == 0 ? 0 : drop + 1;
}

// `plan`: of one sequence. score: [layer_heads], rows of prefix_len tokens `stride` apart.
// *core_difference grows to the most tokens by which core would drop more or fewer.
inline ExpectedSets expected_sets(const Plan& plan, const float* score, int64_t stride,
                                  int64_t* core_difference) {
  const SelectConfig& select = plan.select;
  const int64_t prefix = plan.prefix_len, heads = layer_heads(plan);
  const ExpectedSets dense = {plan.shape.seqlen_kv, {}};
  const auto row = [&](auto* rows, int64_t h, int64_t step) {
    return std::span(rows + h * step, static_cast<size_t>(prefix));
  };
  std::vector<float> pooled(heads * prefix);
  for (int64_t h = 0; h < heads; ++h) {
    if (!all_finite(row(score, h, stride))) return dense;
    smooth(row(score, h, stride), select.pool_width, select.arithmetic,
           row(pooled.data(), h, prefix));
  }
  std::vector<double> mean(prefix);
  mean_rows(pooled.data(), heads, prefix, select.arithmetic, mean);
  int64_t drop = 0;
  if (select.budget == BudgetPolicy::kTau) {
    drop = exact_drop(mean, select);
    std::vector<double> copy = mean;
    *core_difference = std::max<int64_t>(
        *core_difference, std::llabs(drop_count(copy, select.tau, select.arithmetic) - drop));
  }
  const int64_t keep = keep_count(select, prefix, drop);
  if (dense_after_budget(plan, keep) != DenseReason::kNone) return dense;

  ExpectedSets result = {keep + plan.suffix_len(), {}};
  const SetHeads set_heads = tokensieve::set_heads(plan);
  std::vector<float> ranked(prefix), scratch(prefix);
  for (int64_t set = 0; set < plan.num_sets; ++set) {
    const int64_t first = set_heads.first + set * set_heads.heads_per_set;
    mean_rows(&pooled[first * prefix], set_heads.heads_per_set, prefix, select.arithmetic, mean);
    for (double& x : mean) x = static_cast<float>(x);
    if (select.share == Share::kHead && select.arithmetic == Arithmetic::kReferenceRounding) {
      normalise(mean);
    }
    std::copy(mean.begin(), mean.end(), ranked.begin());
    std::vector<int32_t> kept(result.count);
    top_tokens(ranked, keep, select.protect_first, false, scratch, kept.data());
    std::iota(kept.begin() + keep, kept.end(), static_cast<int32_t>(prefix));
    result.sets.push_back(std::move(kept));
  }
  return result;
}

}  // namespace tokensieve::cuda::test
