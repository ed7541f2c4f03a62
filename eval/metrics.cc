#include "eval/metrics.h"

#include <algorithm>
#include <cmath>

namespace tokensieve::eval {
namespace {

// Below e^-25 of the likeliest token a term is lost in the rounding of f32 logits.
constexpr float kNegligible = -25.0f;

size_t likeliest(std::span<const float> row) {
  return static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

double log_sum_exp(std::span<const float> row, float most) {
  double sum = 0;
  for (const float value : row) {
    if (value - most > kNegligible) sum += std::exp(value - most);
  }
  return most + std::log(sum);
}

}  // namespace

void Predictions::add(std::span<const float> row, int32_t target) {
  vocabulary = row.size();
  logits.insert(logits.end(), row.begin(), row.end());
  targets.push_back(target);
}

Metrics compare(const Predictions& reference, const Predictions& other) {
  Metrics m;
  m.tokens = static_cast<int32_t>(reference.targets.size());
  for (size_t i = 0; i < reference.targets.size(); ++i) {
    const std::span<const float> a = reference.row(i), b = other.row(i);
    const size_t top_a = likeliest(a), top_b = likeliest(b);
    const double log_a = log_sum_exp(a, a[top_a]), log_b = log_sum_exp(b, b[top_b]);
    double kl = 0;
    for (size_t t = 0; t < a.size(); ++t) {
      if (a[t] - a[top_a] <= kNegligible) continue;
      const double log_p = a[t] - log_a;
      kl += std::exp(static_cast<float>(log_p)) * (log_p - (b[t] - log_b));
    }
    kl = std::max(kl, 0.0);  // rounding
    m.kl += kl;
    m.kl_max = std::max(m.kl_max, kl);
    m.top1 += top_a == top_b ? 1 : 0;
    const auto target = static_cast<size_t>(reference.targets[i]);
    m.nll_dense += log_a - a[target];
    m.nll += log_b - b[target];
  }
  if (m.tokens == 0) return m;
  for (double* mean : {&m.kl, &m.top1, &m.nll, &m.nll_dense}) *mean /= m.tokens;
  return m;
}

}  // namespace tokensieve::eval
