// The oracle against the golden cases: drop, keep and indices exactly, the rest to rounding.
#include "verify/golden.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ref/attend.h"
#include "ref/elements.h"
#include "ref/oracle.h"
#include "ref/select.h"
#include "support/compare.h"
#include "support/golden_files.h"

namespace tokensieve {
namespace {

using verify::GoldenCase;
using test::close;

class GoldenTest : public testing::TestWithParam<std::pair<const std::string, std::string>> {
 protected:
  void SetUp() override {
    Result<GoldenCase> loaded = verify::load_golden(GetParam().second);
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    golden_ = std::move(loaded).value();
    plan_ = make_plan(golden_.shape, golden_.select, {.backend = Backend::kRef}).value();
    ASSERT_EQ(plan_.path, Path::kSparse) << dense_reason_text(plan_.reason);
  }

  // One row a query head, although sets may be shared.
  std::vector<int32_t> indices_per_head(const std::vector<std::vector<int32_t>>& kept) {
    std::vector<int32_t> all;
    for (int64_t h = 0; h < golden_.shape.num_q_heads; ++h) {
      const auto& set = kept[h * plan_.num_sets / golden_.shape.num_q_heads];
      all.insert(all.end(), set.begin(), set.end());
    }
    return all;
  }

  GoldenCase golden_;
  Plan plan_;
};

TEST_P(GoldenTest, EveryStage) {
  ref::OracleResult result;
  ASSERT_TRUE(ref::run_oracle(plan_, golden_.inputs(), {}, result).ok());
  const ref::Selection& chosen = result.sequences[0];
  const AttentionShape& s = golden_.shape;
  const int64_t prefix = golden_.prefix_len();
  EXPECT_TRUE(close(chosen.token_score, golden_.score, 1e-6, {s.num_q_heads, prefix}));
  EXPECT_TRUE(close(chosen.budget.pooled, golden_.pooled, 1e-6, {s.num_q_heads, prefix}));
  EXPECT_TRUE(close(chosen.budget.layer, golden_.layer, 1e-6, {prefix}));
  EXPECT_EQ(chosen.budget.drop, golden_.drop);
  EXPECT_EQ(chosen.budget.keep, golden_.keep);
  EXPECT_EQ(indices_per_head(chosen.kept), golden_.indices);

  std::vector<double> expected;  // [seq, head, dim], as the oracle's
  for (int64_t i = 0; i < s.seqlen_q; ++i) {
    for (int64_t h = 0; h < s.num_q_heads; ++h) {
      for (int64_t d = 0; d < s.head_dim; ++d) {
        const uint16_t bits = golden_.output[(h * s.seqlen_q + i) * s.head_dim + d];
        expected.push_back(ref::decode(bits, ref::kF16));
      }
    }
  }
  if (golden_.pairs > 0) {
    EXPECT_NEAR(result.report.work, golden_.work(), 1e-12);
  }
  // f16 has 11 bits: 2^-11 relative at worst, a third of that in the L2 norm.
  EXPECT_TRUE(close(result.out, expected, 2.5e-4, {s.seqlen_q, s.num_q_heads, s.head_dim}));
}

// Fed with the golden score, the official code's rounding gives the official code's sets.
TEST_P(GoldenTest, ReferenceRoundingGivesTheOfficialIndices) {
  if (golden_.official_indices.empty()) GTEST_SKIP() << "this case has no official_indices";
  plan_.select.arithmetic = Arithmetic::kReferenceRounding;
  const std::vector<double> score(golden_.score.begin(), golden_.score.end());
  const ref::Budget budget = ref::budget(plan_, score);
  EXPECT_EQ(budget.keep + golden_.select.obs_window, golden_.official_kept);
  EXPECT_EQ(indices_per_head(ref::select(plan_, budget.pooled, budget.keep)),
            golden_.official_indices);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenTest);
INSTANTIATE_TEST_SUITE_P(Files, GoldenTest, testing::ValuesIn(test::golden_files()),
                         [](const auto& info) { return info.param.first; });

TEST(GoldenFiles, Exist) {
  if (test::golden_files().empty()) {
    GTEST_SKIP() << "no golden cases: set TOKENSIEVE_GOLDEN_DIR to the folder of *.safetensors";
  }
}

}  // namespace
}  // namespace tokensieve
