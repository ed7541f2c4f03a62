// Stage compact: kept rows, in the order of their set, for the heads of the output.
#include "ref/compact.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/tensors.h"

namespace tokensieve {
namespace {

using test::Layout;
using test::Tensor;

// Two sequences of 40 tokens, 4 query heads on 2 kv heads, one set a kv head; the second is dense.
class RefCompact : public testing::Test {
 protected:
  RefCompact() {
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
