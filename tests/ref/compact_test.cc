// Stage compact: kept rows, in the order of their set, for the heads of the output.
#include "ref/compact.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/kept_sets.h"

namespace tokensieve {
namespace {

using test::Layout;
using test::Tensor;

class RefCompact : public test::HandMadeSets {};

TEST_F(RefCompact, GathersRowsAndRepeatsKvHeads) {
  Tensor k(DType::kBF16, Layout::kPadded, 2, 40, 2, 16);
  Tensor rows(DType::kBF16, Layout::kBhsd, 2, 5, 4, 16);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t i = 0; i < 40; ++i) {
      for (int64_t h = 0; h < 2; ++h) k.set(b, i, h, 15, 2.0 * i + h);
    }
  }
  ASSERT_TRUE(ref::compact(plan_, k.view(), keep(), rows.view(), {}).ok());
  EXPECT_TRUE(rows.untouched_outside());
  for (int64_t h = 0; h < 4; ++h) {
    for (int64_t r = 0; r < 4; ++r) {
      EXPECT_EQ(rows.at(0, r, h, 15), 2.0 * indices_[h / 2 * 5 + r] + h / 2) << h << ", " << r;
    }
    EXPECT_TRUE(std::isnan(rows.at(0, 4, h, 15))) << "past the count";
    EXPECT_TRUE(std::isnan(rows.at(1, 0, h, 15))) << "a dense sequence";
  }
}

}  // namespace
}  // namespace tokensieve
