#include "eval/report/page_json.h"

#include <cmath>

namespace tokensieve::eval::report {

Json number(double value) {
  // Six digits are more than any chart shows, and half the bytes.
  if (!std::isfinite(value)) return nullptr;
  if (value == 0) return 0;
  const double scale = std::pow(10, 5 - std::floor(std::log10(std::abs(value))));
  return std::round(value * scale) / scale;
}

Json number(const std::optional<double>& value) { return value ? number(*value) : Json(); }

Json number(const std::optional<eval::Estimate>& estimate) {
  if (!estimate) return nullptr;
  return {{"mean", number(estimate->mean)},
          {"low", number(estimate->low)},
          {"high", number(estimate->high)},
          {"count", estimate->count}};
}

Json mean_json(const std::vector<double>& scores) {
  return {{"score", number(100 * eval::mean(scores))}, {"count", scores.size()}};
}

}  // namespace tokensieve::eval::report
