// Work, estimated and counted, against pairs counted one by one with the oracle's mask.
#include "core/work.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <ostream>
#include <vector>

#include "ref/attend.h"
#include "support/case_data.h"
#include "tokensieve/attention.h"

namespace tokensieve {
namespace {

struct WorkCase {
  int64_t tokens;
  int64_t queries;
  int64_t keep;  // prefix tokens
  SelectConfig select;
};

void PrintTo(const WorkCase& c, std::ostream* out) {
  *out << c.queries << " of " << c.tokens << " tokens, keeps " << c.keep;
}

void add_suffix(const Plan& plan, std::vector<int32_t>& kept) {
  for (int64_t i = plan.prefix_len; i < plan.shape.seqlen_kv; ++i) {
    kept.push_back(static_cast<int32_t>(i));
  }
}

// Evenly spread over the prefix, then the suffix.
std::vector<int32_t> even_set(const Plan& plan, int64_t keep) {
  std::vector<int32_t> kept;
  for (int64_t r = 0; r < keep; ++r) {
    kept.push_back(static_cast<int32_t>((2 * r + 1) * plan.prefix_len / (2 * keep)));
  }
  add_suffix(plan, kept);
  return kept;
}

// Random, most of them among the newest eighth of the prefix.
std::vector<int32_t> skewed_set(const Plan& plan, int64_t keep, uint64_t seed) {
  test::Random random(seed);
  std::vector<bool> is_kept(static_cast<size_t>(plan.prefix_len));
  for (int64_t left = keep; left > 0;) {
    const int64_t range = random.below(4) == 0 ? plan.prefix_len : plan.prefix_len / 8 + keep;
    const int64_t token = std::max<int64_t>(0, plan.prefix_len - 1 - random.below(range));
    left -= !is_kept[static_cast<size_t>(token)];
    is_kept[static_cast<size_t>(token)] = true;
  }
  std::vector<int32_t> kept;
  for (int64_t i = 0; i < plan.prefix_len; ++i) {
    if (is_kept[static_cast<size_t>(i)]) kept.push_back(static_cast<int32_t>(i));
  }
  add_suffix(plan, kept);
  return kept;
}

double pairs_of_mask(const Plan& plan, const std::vector<int32_t>& kept) {
  double pairs = 0;
  for (int64_t i = plan.shape.seqlen_kv - plan.shape.seqlen_q; i < plan.shape.seqlen_kv; ++i) {
    pairs += static_cast<double>(ref::visible_keys(plan, /*dense=*/false, kept, i).size());
  }
  return pairs;
}

Result<Plan> plan_of(const WorkCase& c, int32_t heads = 1) {
  SelectConfig select = c.select;
  select.budget = BudgetPolicy::kKeepCount;
  select.keep_count = c.keep;
  select.min_keep = 0;
  select.dense_policy = DensePolicy::kNever;
  return make_plan({.seqlen_q = c.queries,
                    .seqlen_kv = c.tokens,
                    .num_q_heads = heads,
                    .num_kv_heads = heads,
                    .head_dim = 16},
                   select, {.backend = Backend::kRef});
}

class Work : public testing::TestWithParam<WorkCase> {};

TEST_P(Work, CountedIsThatOfTheOraclesMask) {
  const WorkCase& c = GetParam();
  const Result<Plan> plan = plan_of(c);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  std::vector<std::vector<int32_t>> sets = {even_set(*plan, c.keep)};
  for (uint64_t seed : {1, 2, 3}) sets.push_back(skewed_set(*plan, c.keep, seed));
  for (const std::vector<int32_t>& kept : sets) {
    EXPECT_EQ(counted_pairs(*plan, c.keep, far_pairs(*plan, kept)), pairs_of_mask(*plan, kept));
  }
}

TEST_P(Work, EstimateIsThatOfTheOraclesMask) {
  const WorkCase& c = GetParam();
  const Result<Plan> plan = plan_of(c);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  ASSERT_EQ(plan->path, Path::kSparse) << dense_reason_text(plan->reason);
  EXPECT_EQ(planned_keep(*plan), c.keep);
  const SelectConfig& select = plan->select;

  const std::vector<int32_t> kept = even_set(*plan, c.keep);
  const double counted = pairs_of_mask(*plan, kept);
  const double pairs = sparse_pairs(*plan, c.keep).all();
  // A kept row sees at most one key more or less than the even density says, and the kept rows of a
  // block of windows are at most one more or less; zero fill of a whole prompt and chunks with all
  // queries do not depend on where tokens lie.
  const bool exact =
      select.queries == Queries::kAll || (select.fill == Fill::kZero && c.queries == c.tokens);
  const double blocks = static_cast<double>(c.tokens) / kLocalBlock + 1;
  const double slack = exact ? 0.5 : static_cast<double>(kept.size()) * 2 + blocks * c.keep / 2;
  EXPECT_NEAR(pairs, counted, slack);
  EXPECT_NEAR(work_of(*plan, c.keep), counted / dense_pairs(plan->shape),
              slack / dense_pairs(plan->shape));
}

SelectConfig with(Fill fill, Queries queries, int32_t obs_window, int32_t local_window,
                  int32_t sinks) {
  return {.obs_window = obs_window,
          .fill = fill,
          .queries = queries,
          .local_window = local_window,
          .sinks = sinks};
}

constexpr Queries kKept = Queries::kKept, kAll = Queries::kAll;

INSTANTIATE_TEST_SUITE_P(
    Shapes, Work,
    testing::Values(WorkCase{1000, 1000, 200, with(Fill::kZero, kKept, 32, 0, 0)},
                    WorkCase{777, 777, 1, with(Fill::kZero, kKept, 1, 0, 0)},
                    WorkCase{2048, 2048, 400, with(Fill::kLocal, kKept, 128, 256, 4)},
                    WorkCase{2111, 2111, 500, with(Fill::kLocal, kKept, 33, 64, 64)},
                    WorkCase{2111, 2111, 1, with(Fill::kLocal, kKept, 33, 0, 0)},
                    WorkCase{500, 500, 100, with(Fill::kLocal, kKept, 300, 64, 4)},
                    WorkCase{300, 300, 60, with(Fill::kLocal, kKept, 16, 512, 4)},
                    WorkCase{1500, 400, 300, with(Fill::kLocal, kKept, 64, 128, 4)},
                    WorkCase{4111, 1024, 800, with(Fill::kLocal, kKept, 64, 256, 4)},
                    WorkCase{4111, 4000, 800, with(Fill::kLocal, kKept, 300, 256, 4)},
                    WorkCase{700, 600, 100, with(Fill::kLocal, kKept, 32, 512, 4)},
                    WorkCase{4096, 64, 500, with(Fill::kLocal, kKept, 64, 128, 4)},
                    WorkCase{1500, 401, 250, with(Fill::kLocal, kAll, 64, 128, 4)},
                    WorkCase{1500, 401, 250, with(Fill::kZero, kAll, 1, 0, 0)}));

// Three blocks of 64 rows; the kept tokens before the newest two by hand.
TEST(FarPairs, ByHand) {
  const std::vector<int32_t> kept = {0, 10, 70, 100, 130, 190, 191};
  const auto far = [&](int64_t queries, int32_t window, int32_t sinks) {
    const Result<Plan> plan =
        plan_of({192, queries, 5, with(Fill::kLocal, kKept, 2, window, sinks)});
    EXPECT_TRUE(plan.ok()) << plan.status().message();
    return far_pairs(*plan, kept);
  };
  EXPECT_EQ(far(192, 64, 4), 3) << "rows 130, 190, 191 see token 10";
  EXPECT_EQ(far(192, 0, 4), 2 + 9) << "70 and 100 see 10; the last three 10, 70 and 100";
  EXPECT_EQ(far(192, 0, 0), 4 + 12) << "and all of them 0";
  EXPECT_EQ(far(192, 0, 64), 6) << "the last three see 70 and 100";
  EXPECT_EQ(far(64, 0, 4), 9) << "rows of the call alone";
  EXPECT_EQ(far(61, 0, 4), 6) << "130 is before the call";
  EXPECT_EQ(far(192, 128, 4), 0);
}

// A set's windows and sinks count once for each set, and the result is the mean.
TEST(CountedPairs, AreTheMeanOfTheSets) {
  const WorkCase c = {192, 64, 5, with(Fill::kLocal, kKept, 2, 0, 4)};
  const Result<Plan> plan = plan_of(c, /*heads=*/3);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  ASSERT_EQ(plan->num_sets, 3);
  EXPECT_EQ(counted_pairs(*plan, 5, 9 + 6 + 0), 64 * 4 + 64 * 65 / 2 + 5.0);
}

// In a chunk of a long prompt kept tokens of the chunk itself are rows, those before it are not.
TEST(CountedPairs, OfAChunkGrowWithItsKeptRows) {
  const WorkCase c = {4096, 512, 448, with(Fill::kLocal, kKept, 64, 64, 4)};
  const Result<Plan> plan = plan_of(c);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  std::vector<int32_t> before(448), inside(448);
  std::iota(before.begin(), before.end(), 0);
  std::iota(inside.begin(), inside.end(), 4096 - 512);
  add_suffix(*plan, before);
  add_suffix(*plan, inside);
  const auto far = [&](const std::vector<int32_t>& kept) { return far_pairs(*plan, kept); };
  EXPECT_EQ(far(before), 64 * 444) << "64 observers";
  EXPECT_EQ(far(inside), 64 * 64 * (1 + 2 + 3 + 4 + 5 + 6));
  const double estimate = sparse_pairs(*plan, c.keep).compact;
  EXPECT_LT(static_cast<double>(far(before)), estimate);
  EXPECT_GT(static_cast<double>(far(inside)), estimate);
}

TEST(WorkOf, DensePlansAndWholePrefixesAreAllOfTheWork) {
  const AttentionShape shape{
      .seqlen_q = 512, .seqlen_kv = 512, .num_q_heads = 1, .num_kv_heads = 1, .head_dim = 16};
  const Result<Plan> dense = make_plan(shape, {.enabled = false});
  ASSERT_TRUE(dense.ok());
  EXPECT_EQ(work_of(*dense, 0), 1.0);
  EXPECT_EQ(planned_keep(*dense), 0);
  const Result<Plan> tau =
      make_plan(shape, {.obs_window = 16, .min_keep = 0, .dense_policy = DensePolicy::kNever});
  ASSERT_TRUE(tau.ok());
  EXPECT_EQ(work_of(*tau, tau->prefix_len), 1.0);
  EXPECT_EQ(planned_keep(*tau), -1);
}

}  // namespace
}  // namespace tokensieve
