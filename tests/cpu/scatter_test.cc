// Stage scatter on the CPU: the oracle's output, bit by bit.
#include "ref/scatter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/compare.h"
#include "support/kept_sets.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::Tensor;

class CpuScatter : public testing::TestWithParam<AttentionCase> {};

TEST_P(CpuScatter, MatchesTheOracle) {
  const AttentionCase& c = GetParam();
  const test::CaseData data = test::make_data(c, 3);
  test::Kept kept(c, data, Isa::kAuto);
  const int32_t heads = c.shape.num_q_heads;
  const DType dtype = c.shape.dtype;
  Tensor rows(dtype, c.layout, c.shape.batch, kept.capacity, heads, c.shape.head_dim);
  ASSERT_TRUE(compact(kept.plan, data.q.view(), kept.sets(), rows.view()).ok());
  Tensor expected(dtype, c.layout, c.shape.batch, c.shape.seqlen_q, heads, c.shape.head_dim);
  Tensor actual(dtype, c.layout, c.shape.batch, c.shape.seqlen_q, heads, c.shape.head_dim);
  ASSERT_TRUE(ref::scatter(kept.plan, rows.view(), kept.sets(), expected.view(), {}).ok());
  ASSERT_TRUE(scatter(kept.plan, rows.view(), kept.sets(), actual.view()).ok());
  EXPECT_TRUE(actual.untouched_outside());
  EXPECT_TRUE(test::close(actual.values(), expected.values(), 0.0, {actual.size()}));
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuScatter, testing::ValuesIn(test::cases_where(test::has_rows)),
                         test::case_name);

class CpuScatterDense : public test::PartlyDense {};

TEST_F(CpuScatterDense, IsLeftUntouched) {
  Tensor out(shape_.dtype, case_.layout, shape_.batch, shape_.seqlen_q, shape_.num_q_heads,
             shape_.head_dim);
  ASSERT_TRUE(scatter(kept_.plan, rows_.view(), kept_.sets(), out.view()).ok());
  EXPECT_TRUE(std::isnan(out.at(0, 0, 0, 0))) << "still poisoned";
  const std::vector<int32_t> set = kept_.set(1, 0);
  for (int32_t i = 0; i < shape_.seqlen_q; ++i) {  // the rows of a kept token are poison too
    const bool is_kept = std::binary_search(set.begin(), set.end(), i);
    ASSERT_EQ(std::isnan(out.at(1, i, 0, 0)), is_kept) << i;
  }
}

}  // namespace
}  // namespace tokensieve
