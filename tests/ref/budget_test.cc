// Stage budget: known answers, and agreement with core's rule.
#include "ref/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/budget.h"
#include "chosen.h"
#include "support/compare.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::Chosen;
using test::choose;
using testing::DoubleNear;
using testing::ElementsAre;
using testing::Pointwise;

constexpr Arithmetic kFp32 = Arithmetic::kFp32;

TEST(RefBudget, SmoothingCountsMissingNeighboursInTheDivisor) {
  const std::vector<double> score = {3, 0, 0, 6};
  EXPECT_THAT(ref::smooth(score, 3, kFp32), ElementsAre(1, 1, 2, 2));
  EXPECT_THAT(ref::smooth(score, 1, kFp32), ElementsAre(3, 0, 0, 6));
  EXPECT_THAT(ref::smooth(score, 9, kFp32), ElementsAre(1, 1, 1, 1));
}

TEST(RefBudget, DropsWhileTheRunningSumStaysBelowTau) {
  const std::vector<double> mass = {0.5, 0.125, 0.25, 0.125};
  EXPECT_EQ(ref::drop_count(mass, 0.125, kFp32), 0);  // not below: equal
  EXPECT_EQ(ref::drop_count(mass, 0.126, kFp32), 1);
  EXPECT_EQ(ref::drop_count(mass, 0.25, kFp32), 1);
  EXPECT_EQ(ref::drop_count(mass, 0.5, kFp32), 2);
  EXPECT_EQ(ref::drop_count(mass, 0.99, kFp32), 3);
}

TEST(RefBudget, NormalisesWithAnEpsilon) {
  EXPECT_THAT(ref::normalise(std::vector<double>{1, 3}, kFp32),
              Pointwise(DoubleNear(1e-8), {0.25, 0.75}));
  EXPECT_THAT(ref::normalise(std::vector<double>{0, 0}, kFp32), ElementsAre(0, 0));
}

// The prefix of 70 tokens has equal mass everywhere.
TEST(RefBudget, KeepsByPolicyButNeverLessThanItsFloors) {
  const auto keep = [](SelectConfig select) {
    select.obs_window = 30;
    select.dense_policy = DensePolicy::kNever;
    const Plan plan =
        make_plan(test::self_attention(100, 1, 1, 16), select, {.backend = Backend::kRef}).value();
    return ref::budget(plan, std::vector<double>(70, 1.0 / 70)).keep;
  };
  using enum BudgetPolicy;
  EXPECT_EQ(keep({.budget = kKeepRatio, .keep_ratio = 0.37, .min_keep = 0}), 25);  // floor(25.9)
  EXPECT_EQ(keep({.budget = kKeepRatio, .keep_ratio = 0.37, .min_keep = 40}), 40);
  EXPECT_EQ(keep({.budget = kKeepCount, .keep_count = 12, .min_keep = 0}), 12);
  EXPECT_EQ(keep({.budget = kKeepCount, .keep_count = 12, .min_keep = 0, .protect_first = 20}), 20);
  EXPECT_EQ(keep({.budget = kTau, .tau = 0.5, .min_keep = 0}), 70 - (35 + 1));
}

class RefBudgetTest : public testing::TestWithParam<AttentionCase> {};

// Core's budget rule (f32 in, nth_element) against the oracle's (double, sorting).
TEST_P(RefBudgetTest, CoreAgrees) {
  const Chosen x = choose(GetParam());
  const SelectConfig& select = x.plan.select;
  const int64_t heads = x.plan.shape.num_q_heads;
  const int64_t prefix = x.plan.prefix_len;
  // Both start from the f32 scores that backends have.
  const std::vector<float> score(x.selection.token_score.begin(), x.selection.token_score.end());
  const ref::Budget expected = ref::budget(x.plan, std::vector<double>(score.begin(), score.end()));

  std::vector<float> pooled(heads * prefix);
  for (int64_t h = 0; h < heads; ++h) {
    smooth({&score[h * prefix], static_cast<size_t>(prefix)}, select.pool_width, select.arithmetic,
           {&pooled[h * prefix], static_cast<size_t>(prefix)});
  }
  EXPECT_TRUE(test::close(pooled, expected.pooled, 1e-7, {heads, prefix}));
  std::vector<double> mean(prefix);
  mean_rows(pooled.data(), heads, prefix, select.arithmetic, mean);
  const int64_t drop = drop_count(mean, select.tau, select.arithmetic);
  const int64_t keep = keep_count(select, prefix, drop);
  EXPECT_EQ(keep, expected.keep);
}

INSTANTIATE_TEST_SUITE_P(Cases, RefBudgetTest, testing::ValuesIn(test::cases_where(test::selects)),
                         test::case_name);

}  // namespace
}  // namespace tokensieve
