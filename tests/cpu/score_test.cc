// Stage score on the CPU against the oracle, under every instruction set.
#include <gtest/gtest.h>

#include "core/backend_table.h"
#include "ref/score.h"
#include "support/case_data.h"
#include "support/compare.h"
#include "support/isas.h"

namespace tokensieve {
namespace {

using test::AttentionCase;

class CpuScore : public testing::TestWithParam<AttentionCase> {};

TEST_P(CpuScore, MatchesTheOracle) {
  const AttentionCase& c = GetParam();
  const test::CaseData data = test::make_data(c, 4);
  for (Isa isa : test::tested_isas()) {
    SCOPED_TRACE(isa_name(isa));
    const Plan plan = make_plan(c.shape, c.select, {.backend = Backend::kCpu, .isa = isa}).value();
    const int64_t size = c.shape.num_q_heads * plan.prefix_len;
    std::vector<float> score(c.shape.batch * size, NAN);
    test::GuardedBytes workspace(workspace_bytes(plan));
    ASSERT_TRUE(backend_ops(Backend::kCpu)
                    ->score(plan, data.inputs(), score.data(), workspace.span(), {})
                    .ok());
    EXPECT_TRUE(workspace.guards_intact());
    for (int64_t b = 0; b < c.shape.batch; ++b) {
      const std::span<const float> actual(&score[b * size], static_cast<size_t>(size));
      EXPECT_TRUE(test::close(actual, ref::score(plan, data.inputs(), b, serial_executor()), 1e-5,
                              {c.shape.num_q_heads, plan.prefix_len}))
          << "sequence " << b;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuScore,
                         testing::ValuesIn(test::cases_where([](const AttentionCase& c) {
                           return c.reason == DenseReason::kNone;
                         })),
                         test::case_name);

}  // namespace
}  // namespace tokensieve
