// Stages score, budget and select: known answers, and agreement with core's budget rule.
#include "ref/select.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/budget.h"
#include "ref/budget.h"
#include "ref/oracle.h"
#include "support/case_data.h"
#include "support/compare.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;
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

// A sparse plan of the case tables, with its oracle.
struct Chosen {
  AttentionCase c;
  CaseData data;
  Plan plan;
  ref::Selection selection;
};

Chosen choose(const AttentionCase& c) {
  Chosen x = {c,
              test::make_data(c, 7),
              make_plan(c.shape, c.select, {.backend = Backend::kRef}).value(),
              {}};
  x.selection = ref::select_sequence(x.plan, x.data.inputs(), 0, {});
  return x;
}

class RefSelectTest : public testing::TestWithParam<AttentionCase> {};

// The mass that a window's query pays to the prefix and to the window adds up to 1.
TEST_P(RefSelectTest, ScoresAreMasses) {
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

TEST_P(RefSelectTest, SetsAreWellFormed) {
  const Chosen x = choose(GetParam());
  const Plan& plan = x.plan;
  if (x.selection.dense()) {
    EXPECT_TRUE(x.selection.kept.empty());
    return;
  }
  const int64_t tail = plan.shape.seqlen_kv - plan.prefix_len;
  EXPECT_LE(x.selection.budget.keep, plan.max_keep);
  EXPECT_GE(x.selection.budget.keep, std::min(plan.select.min_keep, plan.prefix_len));
  ASSERT_EQ(static_cast<int32_t>(x.selection.kept.size()), plan.num_sets);
  for (const std::vector<int32_t>& set : x.selection.kept) {
    ASSERT_EQ(static_cast<int64_t>(set.size()), x.selection.budget.keep + tail);
    EXPECT_TRUE(std::is_sorted(set.begin(), set.end(), std::less_equal<>()));
    EXPECT_GE(set.front(), 0);
    for (int64_t i = 0; i < tail; ++i) {
      ASSERT_EQ(set[set.size() - tail + i], plan.prefix_len + i);
    }
    for (int32_t i = 0; i < std::min<int64_t>(plan.select.protect_first, plan.prefix_len); ++i) {
      ASSERT_EQ(set[i], i);
    }
  }
}

// Core's budget rule (f32 in, nth_element) against the oracle's (double, sorting).
TEST_P(RefSelectTest, CoreAgrees) {
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
  if (x.selection.dense() || select.share != Share::kHead) return;

  const auto sets = ref::select(x.plan, expected.pooled, keep);
  std::vector<float> scratch(prefix);
  std::vector<int32_t> indices(keep);
  for (int64_t h = 0; h < heads; ++h) {
    top_tokens({&pooled[h * prefix], static_cast<size_t>(prefix)}, keep, select.protect_first,
               select.arithmetic == Arithmetic::kReferenceRounding, scratch, indices.data());
    // Pooled f32 values may tie where double ones do not: the same, or nearly so.
    const std::vector<int32_t> prefix_part(sets[h].begin(), sets[h].begin() + keep);
    EXPECT_GE(test::overlap(indices, prefix_part), keep < 100 ? 0.98 : 0.995) << "head " << h;
  }
}

// Cases whose plan is sparse and whose scores are finite.
bool selects(const AttentionCase& c) {
  return make_plan(c.shape, c.select, {.backend = Backend::kRef}).value().path == Path::kSparse &&
         c.reason != DenseReason::kNonFiniteScore;
}

INSTANTIATE_TEST_SUITE_P(Cases, RefSelectTest, testing::ValuesIn(test::cases_where(selects)),
                         test::case_name);

TEST(RefSelect, TiesGoToTheLowestIndex) {
  Chosen x = choose({"ties",
                     test::self_attention(200, 4, 2, 32),
                     {.budget = BudgetPolicy::kKeepCount,
                      .keep_count = 5,
                      .obs_window = 8,
                      .pool_width = 1,
                      .min_keep = 0,
                      .dense_policy = DensePolicy::kNever},
                     DenseReason::kNone,
                     test::Layout::kBshd,
                     test::Content::kTies});
  for (const auto& set : x.selection.kept) {
    EXPECT_THAT(std::vector<int32_t>(set.begin(), set.begin() + 5), ElementsAre(0, 1, 2, 3, 4));
  }
  x.plan.select.protect_first = 2;
  std::vector<double> pooled(4 * x.plan.prefix_len, 0.0);
  pooled[50] = 1.0;  // head 0
  const auto sets = ref::select(x.plan, pooled, 5);
  EXPECT_THAT(std::vector<int32_t>(sets[0].begin(), sets[0].begin() + 5),
              ElementsAre(0, 1, 2, 3, 50));
}

TEST(RefSelect, ScoreOfEqualKeysIsTheMeanOfOneOverTheirNumber) {
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

TEST(RefSelect, OneHotIsKept) {
  for (const AttentionCase& c : test::sparse_cases()) {
    if (c.content != test::Content::kOneHot) continue;
    const Chosen x = choose(c);
    const int32_t hot = static_cast<int32_t>(c.shape.seqlen_kv / 3);
    for (const auto& set : x.selection.kept) {
      EXPECT_TRUE(std::binary_search(set.begin(), set.end(), hot)) << c.name;
    }
  }
}

}  // namespace
}  // namespace tokensieve
