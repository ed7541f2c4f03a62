// In kReferenceRounding, sums are f32 and every result is rounded to bf16, as the official code's
// tensors are; only the running sum stays f32.
#include "ref/budget.h"

#include <algorithm>
#include <cmath>

#include "core/plan.h"
#include "ref/elements.h"

namespace tokensieve::ref {
namespace {

double bf16(double x) { return round_to(x, kBF16); }

// Sum in f32 or in double.
double sum_of(std::span<const double> x, bool reference) {
  double sum = 0.0;
  for (double value : x) {
    sum += value;
    if (reference) sum = static_cast<float>(sum);
  }
  return sum;
}

int64_t kept_by_policy(const SelectConfig& select, int64_t prefix_len, int64_t drop) {
  switch (select.budget) {
    case BudgetPolicy::kTau:
      return drop == 0 ? prefix_len : prefix_len - (drop + 1);
    case BudgetPolicy::kKeepRatio:
      return static_cast<int64_t>(std::floor(select.keep_ratio * static_cast<double>(prefix_len)));
    case BudgetPolicy::kKeepCount:
      return select.keep_count;
  }
  return prefix_len;
}

}  // namespace

std::vector<double> smooth(std::span<const double> score, int pool_width, Arithmetic arithmetic) {
  const bool reference = arithmetic == Arithmetic::kReferenceRounding;
  const int64_t size = static_cast<int64_t>(score.size());
  std::vector<double> input(score.begin(), score.end());
  if (reference) {
    for (double& x : input) x = bf16(x);
  }
  std::vector<double> pooled(score.size());
  for (int64_t i = 0; i < size; ++i) {
    const int64_t begin = std::max<int64_t>(0, i - pool_width / 2);
    const int64_t end = std::min<int64_t>(size, i + pool_width / 2 + 1);
    const double sum = sum_of({&input[begin], &input[0] + end}, reference);
    pooled[i] = reference ? bf16(static_cast<float>(sum) / static_cast<float>(pool_width))
                          : sum / pool_width;
  }
  return pooled;
}

std::vector<double> mean_of_rows(std::span<const double> x, int64_t size, int64_t first,
                                 int64_t count, Arithmetic arithmetic) {
  const bool reference = arithmetic == Arithmetic::kReferenceRounding;
  std::vector<double> mean(static_cast<size_t>(size));
  std::vector<double> column(static_cast<size_t>(count));
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t row = 0; row < count; ++row) column[row] = x[(first + row) * size + i];
    const double sum = sum_of(column, reference);
    mean[i] = reference ? bf16(static_cast<float>(sum) / static_cast<float>(count))
                        : sum / static_cast<double>(count);
  }
  return mean;
}

std::vector<double> normalise(std::span<const double> x, Arithmetic arithmetic) {
  const bool reference = arithmetic == Arithmetic::kReferenceRounding;
  const double sum = sum_of(x, reference);
  const double divisor = reference ? bf16(static_cast<float>(bf16(sum)) + 1e-8f) : sum + 1e-8;
  std::vector<double> normalised(x.begin(), x.end());
  for (double& value : normalised) {
    value =
        reference ? bf16(static_cast<float>(value) / static_cast<float>(divisor)) : value / divisor;
  }
  return normalised;
}

int64_t drop_count(std::vector<double> x, double tau, Arithmetic arithmetic) {
  const bool reference = arithmetic == Arithmetic::kReferenceRounding;
  if (reference) tau = static_cast<float>(tau);
  std::sort(x.begin(), x.end());
  int64_t drop = 0;
  double running = 0.0;
  for (double value : x) {
    running += value;
    if (reference) running = static_cast<float>(running);
    if (!(running < tau)) break;
    ++drop;
  }
  return drop;
}

Budget budget(const Plan& plan, std::span<const double> token_score) {
  const SelectConfig& select = plan.select;
  const int64_t heads = layer_heads(plan);
  Budget result;
  for (int64_t h = 0; h < heads; ++h) {
    const std::vector<double> head =
        smooth(token_score.subspan(h * plan.prefix_len, plan.prefix_len), select.pool_width,
               select.arithmetic);
    result.pooled.insert(result.pooled.end(), head.begin(), head.end());
  }
  result.layer = normalise(
      mean_of_rows(result.pooled, plan.prefix_len, 0, heads, select.arithmetic), select.arithmetic);
  if (select.budget == BudgetPolicy::kTau) {
    result.drop = drop_count(result.layer, select.tau, select.arithmetic);
  }
  result.keep = kept_by_policy(select, plan.prefix_len, result.drop);
  result.keep = std::max({result.keep, select.min_keep, int64_t{select.protect_first}});
  result.keep = std::min(result.keep, plan.prefix_len);
  return result;
}

}  // namespace tokensieve::ref
