// Stage scatter: computed rows at their places, zeros elsewhere.
#include "ref/scatter.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/kept_sets.h"

namespace tokensieve {
namespace {

using test::Layout;
using test::Tensor;

class RefScatter : public test::HandMadeSets {};

TEST_F(RefScatter, PutsRowsBackAndZeroesTheOthers) {
  Tensor rows(DType::kF16, Layout::kBshd, 2, 5, 4, 16);
  Tensor out(DType::kF16, Layout::kPadded, 2, 40, 4, 16);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t i = 0; i < 5; ++i) {
      for (int64_t h = 0; h < 4; ++h) rows.set(b, i, h, 15, 1.0 + 4 * i + h);
    }
  }
  ASSERT_TRUE(ref::scatter(plan_, rows.view(), keep(), out.view(), {}).ok());
  EXPECT_TRUE(out.untouched_outside());
  for (int64_t h = 0; h < 4; ++h) {
    int64_t r = 0;
    for (int64_t i = 0; i < 40; ++i) {
      const bool kept = r < 4 && indices_[h / 2 * 5 + r] == i;
      EXPECT_EQ(out.at(0, i, h, 15), kept ? 1.0 + 4 * r + h : 0.0) << h << ", " << i;
      r += kept;
    }
    EXPECT_EQ(r, 4);
    EXPECT_TRUE(std::isnan(out.at(1, 0, h, 15))) << "a dense sequence is the caller's";
  }
}

}  // namespace
}  // namespace tokensieve
