// Measures of difference that `tokensieve verify` reports.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace tokensieve::cli {

struct Difference {
  double error = 0.0;
  int64_t worst = 0;
};

inline constexpr double kNoError = std::numeric_limits<double>::quiet_NaN();  // fails every check

// NaN or one kind of infinity on both sides counts as equal, on one side as NaN error.
inline bool same_class(double a, double b) {
  return std::isnan(a) == std::isnan(b) && std::isinf(a) == std::isinf(b) &&
         (!std::isinf(a) || std::signbit(a) == std::signbit(b));
}

// ||a - e|| / ||e||, and where they are farthest apart.
template <typename A, typename E>
Difference rel_l2(const A& actual, const E& expected) {
  Difference result;
  double error = 0.0, norm = 0.0, farthest = -1.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = actual[i], e = expected[i];
    if (!same_class(a, e)) return {kNoError, static_cast<int64_t>(i)};
    if (!std::isfinite(e)) continue;
    error += (a - e) * (a - e);
    norm += e * e;
    if (std::fabs(a - e) > farthest) {
      farthest = std::fabs(a - e);
      result.worst = static_cast<int64_t>(i);
    }
  }
  result.error = std::sqrt(norm > 0 ? error / norm : error);
  return result;
}

// Largest |a - e| / |e|; entries below `floor` are measured against it.
template <typename A, typename E>
Difference max_relative(const A& actual, const E& expected, double floor) {
  Difference result;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = actual[i], e = expected[i];
    if (!same_class(a, e)) return {kNoError, static_cast<int64_t>(i)};
    if (!std::isfinite(e)) continue;
    const double error = std::fabs(a - e) / std::fmax(std::fabs(e), floor);
    if (error > result.error) result = {error, static_cast<int64_t>(i)};
  }
  return result;
}

// Entries of one ascending list that the other lacks.
std::vector<int32_t> only_in(std::span<const int32_t> a, std::span<const int32_t> b);

// "[3, 120, 7]" of a flat index.
std::string index_text(int64_t flat, std::span<const int64_t> shape);

}  // namespace tokensieve::cli
