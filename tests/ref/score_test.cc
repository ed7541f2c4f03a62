// Stage score: masses of softmax, and the entry of the backend table.
#include "ref/score.h"

#include <gtest/gtest.h>

#include "core/backend_table.h"
#include "chosen.h"
#include "support/compare.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;
using test::Chosen;
using test::choose;

class RefScoreTest : public testing::TestWithParam<AttentionCase> {};

// The mass that a window's query pays to the prefix and to the window adds up to 1.
TEST_P(RefScoreTest, ScoresAreMasses) {
  const Chosen x = choose(GetParam());
  for (int64_t h = 0; h < x.plan.shape.num_q_heads; ++h) {
    double sum = 0.0;
    for (int64_t j = 0; j < x.plan.prefix_len; ++j) {
      const double mass = x.selection.token_score[h * x.plan.prefix_len + j];
      ASSERT_GE(mass, 0.0);
      sum += mass;
    }
    EXPECT_LE(sum, 1.0 + 1e-12);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, RefScoreTest, testing::ValuesIn(test::cases_where(test::selects)),
                         test::case_name);

TEST(RefScore, OfEqualKeysIsTheMeanOfOneOverTheirNumber) {
  const Chosen x =
      choose({"ties",
              test::self_attention(40, 1, 1, 16),
              {.tau = 0.5, .obs_window = 2, .min_keep = 0, .dense_policy = DensePolicy::kNever},
              DenseReason::kNone,
              test::Layout::kBshd,
              test::Content::kTies});
  // The two newest queries see 39 and 40 keys.
  for (double mass : x.selection.token_score) {
    EXPECT_NEAR(mass, (1.0 / 39 + 1.0 / 40) / 2, 1e-15);
  }
}

// A sink as strong as all keys together halves the scores.
TEST(RefScore, SinksTakeTheirShare) {
  const AttentionCase c = {"ties",
                           test::self_attention(40, 1, 1, 16),
                           {.obs_window = 1, .min_keep = 0, .dense_policy = DensePolicy::kNever},
                           DenseReason::kNone,
                           test::Layout::kBshd,
                           test::Content::kTies};
  CaseData data = test::make_data(c, 7);
  data.sink_logits = {static_cast<float>(std::log(40.0))};
  const Plan plan = make_plan(c.shape, c.select, {.backend = Backend::kRef}).value();
  for (double mass : ref::score(plan, data.inputs(), 0, serial_executor())) {
    EXPECT_NEAR(mass, 1.0 / 80, 1e-9);
  }
}

TEST(RefScore, TableEntryGivesTheOraclesScore) {
  const AttentionCase c = test::sparse_cases().front();
  const CaseData data = test::make_data(c, 1);
  const Plan plan = make_plan(c.shape, c.select, {.backend = Backend::kRef}).value();
  std::vector<float> score(c.shape.num_q_heads * plan.prefix_len);
  ASSERT_TRUE(backend_ops(Backend::kRef)
                  ->score(plan, data.inputs(), score.data(), {}, {})
                  .ok());
  EXPECT_TRUE(test::close(score, test::run_oracle(plan, data).sequences[0].token_score, 1e-7,
                          {c.shape.num_q_heads, plan.prefix_len}));
}

}  // namespace
}  // namespace tokensieve
