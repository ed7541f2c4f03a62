// How far a result lies from what was expected: one comparison for `tokensieve verify`, the tests
// and the benchmarks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace tokensieve::verify {

// NaN and each infinity are classes of their own: an entry must be of the class that is expected.
inline int float_class(double x) {
  return std::isnan(x) ? 1 : x == INFINITY ? 2 : x == -INFINITY ? 3 : 0;
}

struct Comparison {
  int64_t mask_mismatches = 0;  // entries of another class
  int64_t first_mismatch = -1;
  double rel_l2 = 0.0;   // of the finite entries; absolute where the expected are all zero
  double max_abs = 0.0;  // of the finite entries
  int64_t worst = -1;    // where max_abs is
};

template <typename A, typename E>
Comparison compare(const A& actual, const E& expected) {
  Comparison result;
  double error = 0.0, norm = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = actual[i], e = expected[i];
    if (float_class(a) != float_class(e)) {
      if (result.mask_mismatches++ == 0) result.first_mismatch = static_cast<int64_t>(i);
      continue;
    }
    if (float_class(e) != 0) continue;
    error += (a - e) * (a - e);
    norm += e * e;
    if (std::fabs(a - e) > result.max_abs || result.worst < 0) {
      result.max_abs = std::fabs(a - e);
      result.worst = static_cast<int64_t>(i);
    }
  }
  result.rel_l2 = std::sqrt(norm > 0 ? error / norm : error);
  return result;
}

// One figure, and where it comes from.
struct Difference {
  double error = 0.0;  // NaN, which fails every check, if an entry is of another class
  int64_t worst = 0;
};

inline constexpr double kNoError = std::numeric_limits<double>::quiet_NaN();

// ||a - e|| / ||e||, and where they are farthest apart.
template <typename A, typename E>
Difference rel_l2(const A& actual, const E& expected) {
  const Comparison c = compare(actual, expected);
  if (c.mask_mismatches > 0) return {kNoError, c.first_mismatch};
  return {c.rel_l2, std::max<int64_t>(0, c.worst)};
}

// Largest |a - e| / |e|; entries below `floor` are measured against it.
template <typename A, typename E>
Difference max_relative(const A& actual, const E& expected, double floor) {
  Difference result;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = actual[i], e = expected[i];
    if (float_class(a) != float_class(e)) return {kNoError, static_cast<int64_t>(i)};
    if (float_class(e) != 0) continue;
    const double error = std::fabs(a - e) / std::fmax(std::fabs(e), floor);
    if (error > result.error) result = {error, static_cast<int64_t>(i)};
  }
  return result;
}

// Entries of one ascending list that the other lacks.
inline std::vector<int32_t> only_in(std::span<const int32_t> a, std::span<const int32_t> b) {
  std::vector<int32_t> result;
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(result));
  return result;
}

// Share of the entries of one ascending list that the other has too.
inline double overlap(std::span<const int32_t> actual, std::span<const int32_t> expected) {
  if (expected.empty()) return 1.0;
  return 1.0 - static_cast<double>(only_in(expected, actual).size()) /
                   static_cast<double>(expected.size());
}

// "[3, 120, 7]" of a flat index.
inline std::string index_text(int64_t flat, std::span<const int64_t> shape) {
  std::string text;
  for (size_t axis = shape.size(); axis-- > 0; flat /= shape[axis]) {
    text = std::to_string(flat % shape[axis]) + (text.empty() ? "" : ", ") + text;
  }
  return "[" + text + "]";
}

}  // namespace tokensieve::verify
