// The work of a plan against pairs counted one by one with the oracle's mask.
#include "core/work.h"

#include <gtest/gtest.h>

#include <ostream>
#include <vector>

#include "ref/attend.h"
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

// Evenly spread over the prefix, then the suffix.
std::vector<int32_t> even_set(const Plan& plan, int64_t keep) {
  std::vector<int32_t> kept;
  for (int64_t r = 0; r < keep; ++r) {
    kept.push_back(static_cast<int32_t>((2 * r + 1) * plan.prefix_len / (2 * keep)));
  }
  for (int64_t i = plan.prefix_len; i < plan.shape.seqlen_kv; ++i) {
    kept.push_back(static_cast<int32_t>(i));
  }
  return kept;
}

double counted_pairs(const Plan& plan, const std::vector<int32_t>& kept) {
  double pairs = 0;
  for (int64_t i = plan.shape.seqlen_kv - plan.shape.seqlen_q; i < plan.shape.seqlen_kv; ++i) {
    pairs += static_cast<double>(ref::visible_keys(plan, /*dense=*/false, kept, i).size());
  }
  return pairs;
}

class Work : public testing::TestWithParam<WorkCase> {};

TEST_P(Work, IsThatOfTheOraclesMask) {
  const WorkCase& c = GetParam();
  SelectConfig select = c.select;
  select.budget = BudgetPolicy::kKeepCount;
  select.keep_count = c.keep;
  select.min_keep = 0;
  select.dense_policy = DensePolicy::kNever;
  const Result<Plan> plan = make_plan({.seqlen_q = c.queries,
                                       .seqlen_kv = c.tokens,
                                       .num_q_heads = 1,
                                       .num_kv_heads = 1,
                                       .head_dim = 16},
                                      select, {.backend = Backend::kRef});
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  ASSERT_EQ(plan->path, Path::kSparse) << dense_reason_text(plan->reason);
  EXPECT_EQ(planned_keep(*plan), c.keep);

  const std::vector<int32_t> kept = even_set(*plan, c.keep);
  const double counted = counted_pairs(*plan, kept);
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
