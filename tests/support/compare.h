// Comparison of results: NaN and infinity masks first, then rel-L2 and the worst element.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <span>
#include <sstream>
#include <string>
#include <vector>

namespace tokensieve::test {

struct Comparison {
  int64_t mask_mismatches = 0;  // entries of which one is NaN, +inf or -inf and the other is not
  int64_t first_mismatch = -1;
  double rel_l2 = 0.0;   // of the finite entries; absolute where the expected are all zero
  double max_abs = 0.0;  // of the finite entries
  int64_t worst = -1;    // where max_abs is
};

inline int float_class(double x) {
  return std::isnan(x) ? 1 : x == INFINITY ? 2 : x == -INFINITY ? 3 : 0;
}

template <typename A, typename E>
Comparison compare(const A& actual, const E& expected) {
  Comparison result;
  double error = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = actual[i];
    const double e = expected[i];
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

// [1, 2, 3] of a flat index into `shape`.
inline std::string index_text(int64_t flat, std::span<const int64_t> shape) {
  std::vector<int64_t> index(shape.size());
  for (size_t axis = shape.size(); axis-- > 0; flat /= shape[axis]) {
    index[axis] = flat % shape[axis];
  }
  std::ostringstream text;
  text << "[";
  for (size_t axis = 0; axis < index.size(); ++axis) text << (axis ? ", " : "") << index[axis];
  text << "]";
  return text.str();
}

// EXPECT_TRUE(close(actual, expected, 1e-5, {batch, seq, heads, dim})). Entries must agree in
// class (finite, NaN, inf), within `rel_l2` over all, and each within `max_abs` (default: 100
// times rel_l2 of the largest expected magnitude, so that no single row may be wrong).
template <typename A, typename E>
testing::AssertionResult close(const A& actual, const E& expected, double rel_l2,
                               std::vector<int64_t> shape, double max_abs = -1.0) {
  if (actual.size() != expected.size()) {
    return testing::AssertionFailure() << actual.size() << " entries, expected " << expected.size();
  }
  const Comparison c = compare(actual, expected);
  if (c.mask_mismatches > 0) {
    return testing::AssertionFailure()
           << c.mask_mismatches << " entries differ in being finite; first at "
           << index_text(c.first_mismatch, shape) << ": " << actual[c.first_mismatch]
           << ", expected " << expected[c.first_mismatch];
  }
  if (max_abs < 0) {
    double largest = 0.0;
    for (double e : expected) {
      if (std::isfinite(e)) largest = std::max(largest, std::fabs(e));
    }
    max_abs = 100 * rel_l2 * largest;
  }
  if (c.rel_l2 <= rel_l2 && c.max_abs <= max_abs) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << "rel-L2 " << c.rel_l2 << " (tolerance " << rel_l2 << "), max abs " << c.max_abs
         << " (tolerance " << max_abs << ") at " << index_text(c.worst, shape) << ": "
         << actual[c.worst] << ", expected " << expected[c.worst];
}

// Share of `expected` rows' entries that `actual` has too; rows ascend.
inline double overlap(std::span<const int32_t> actual, std::span<const int32_t> expected) {
  size_t i = 0;
  int64_t common = 0;
  for (int32_t e : expected) {
    while (i < actual.size() && actual[i] < e) ++i;
    if (i < actual.size() && actual[i] == e) ++common;
  }
  return expected.empty() ? 1.0
                          : static_cast<double>(common) / static_cast<double>(expected.size());
}

}  // namespace tokensieve::test
