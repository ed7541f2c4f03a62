// Stage compact on the CPU: the oracle's rows, bit by bit.
#include "ref/compact.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/compare.h"
#include "support/kept_sets.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::Tensor;

class CpuCompact : public testing::TestWithParam<AttentionCase> {};

TEST_P(CpuCompact, MatchesTheOracle) {
  const AttentionCase& c = GetParam();
  const test::CaseData data = test::make_data(c, 3);
  test::Kept kept(c, data, Isa::kAuto);
  const int32_t heads = c.shape.num_q_heads;
  for (const Tensor* x : {&data.q, &data.k, &data.v}) {
    const DType dtype = x->view().dtype;
    Tensor expected(dtype, c.layout, c.shape.batch, kept.capacity, heads, c.shape.head_dim);
    Tensor actual(dtype, c.layout, c.shape.batch, kept.capacity, heads, c.shape.head_dim);
    ASSERT_TRUE(ref::compact(kept.plan, x->view(), kept.sets(), expected.view(), {}).ok());
    ASSERT_TRUE(compact(kept.plan, x->view(), kept.sets(), actual.view()).ok());
    EXPECT_TRUE(actual.untouched_outside());
    EXPECT_TRUE(test::close(actual.values(), expected.values(), 0.0, {actual.size()}));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuCompact, testing::ValuesIn(test::cases_where(test::has_rows)),
                         test::case_name);

class CpuCompactDense : public test::PartlyDense {};

TEST_F(CpuCompactDense, IsLeftUntouched) {
  ASSERT_TRUE(compact(kept_.plan, data_.q.view(), kept_.sets(), rows_.view()).ok());
  EXPECT_TRUE(std::isnan(rows_.at(0, 0, 0, 0))) << "still poisoned";
  EXPECT_FALSE(std::isnan(rows_.at(1, 0, 0, 0)));
}

}  // namespace
}  // namespace tokensieve
