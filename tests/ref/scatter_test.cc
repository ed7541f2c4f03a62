// Stage scatter: computed rows at their places, zeros elsewhere.
#include "ref/scatter.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/tensors.h"

namespace tokensieve {
namespace {

using test::Layout;
using test::Tensor;

// Two sequences of 40 tokens, 4 query heads on 2 kv heads, one set a kv head; the second is dense.
class RefScatter : public testing::Test {
 protected:
  RefScatter() {
    plan_.shape = {.batch = 2, .seqlen_q = 40, .seqlen_kv = 40, .num_q_heads = 4,
                   .num_kv_heads = 2, .head_dim = 16};
    plan_.num_sets = 2;
  }
  KeepSet keep() { return {indices_.data(), 5, count_.data()}; }

  Plan plan_;
  std::vector<int32_t> indices_ = {0, 7, 38, 39, -1, 2, 3, 4, 39, -1,        // sequence 0
                                   -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};  // sequence 1
  std::vector<int64_t> count_ = {4, 40};
};

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
