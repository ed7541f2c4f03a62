// Comparison of results as a GoogleTest assertion.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "verify/compare.h"

namespace tokensieve::test {

using verify::compare;
using verify::Comparison;
using verify::index_text;
using verify::overlap;

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

}  // namespace tokensieve::test
