// Stage select: known answers, and agreement with core's choice.
#include "ref/select.h"

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
using testing::ElementsAre;

class RefSelectTest : public testing::TestWithParam<AttentionCase> {};

TEST_P(RefSelectTest, SetsAreWellFormed) {
  const Chosen x = choose(GetParam());
  const Plan& plan = x.plan;
  if (x.selection.dense()) {
    EXPECT_TRUE(x.selection.kept.empty());
    return;
  }
  const int64_t tail = plan.suffix_len();
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

// Core's choice (f32, nth_element) against the oracle's (double, sorting).
TEST_P(RefSelectTest, CoreAgrees) {
  const Chosen x = choose(GetParam());
  const SelectConfig& select = x.plan.select;
  if (x.selection.dense() || select.share != Share::kHead) return;
  const size_t prefix = static_cast<size_t>(x.plan.prefix_len);
  const std::vector<double>& pooled = x.selection.budget.pooled;
  const int64_t keep = x.selection.budget.keep;
  std::vector<float> scratch(prefix);
  std::vector<int32_t> indices(keep);
  for (int64_t h = 0; h < x.plan.shape.num_q_heads; ++h) {
    const std::vector<float> score(&pooled[h * prefix], &pooled[h * prefix] + prefix);
    top_tokens(score, keep, select.protect_first,
               select.arithmetic == Arithmetic::kReferenceRounding, scratch, indices.data());
    // f32 values may tie where double ones do not: the same, or nearly so.
    const std::vector<int32_t>& kept = x.selection.kept[h];
    const std::vector<int32_t> prefix_part(kept.begin(), kept.begin() + keep);
    EXPECT_GE(test::overlap(indices, prefix_part), keep < 100 ? 0.98 : 0.995) << "head " << h;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, RefSelectTest, testing::ValuesIn(test::cases_where(test::selects)),
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
