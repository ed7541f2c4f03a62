// The headline numbers, against values worked out by hand.
#include "eval/report/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "report/runs.h"

namespace tokensieve::eval::report {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Dense solves "qa" (3 of 4) and not "hard" (0 of 4); sparse loses one qa case and gains a hard
// one.
EvalRun example() {
  std::string text = kHeader;
  for (int i = 0; i < 4; ++i) {
    const auto line = [&](const char* task, const char* config, double score, double prefill) {
      text += result(task, 1024, i, config,
                     "\"score\":" + std::to_string(score) +
                         ",\"prefill_ms\":" + std::to_string(prefill) +
                         ",\"work\":0.5,\"follow_ups\":[{\"score\":1},"
                         "{\"score\":" +
                         std::to_string(score) + "}]");
    };
    line("qa", "stock", i < 3, 100);
    line("qa", "dense", i < 3, 80);
    line("qa", "sparse", i < 2, 40);
    line("hard", "dense", 0, 80);
    line("hard", "sparse", i == 0, 40);
  }
  text += result("text", 1024, 0, "sparse",
                 R"("metrics":{"kl":0.02,"top1":0.5,"nll":2.1,"nll_dense":2})");
  text += result("text", 1024, 1, "sparse",
                 R"("metrics":{"kl":0.04,"top1":1.0,"nll":2.3,"nll_dense":2})");
  return parsed(text);
}

const ConfigSummary& find(const Summary& summary, const std::string& name) {
  for (const ConfigSummary& config : summary.configs) {
    if (config.config == name) return config;
  }
  ADD_FAILURE() << name;
  return summary.configs.front();
}

TEST(Summary, CountsOnlyWhatDenseSolves) {
  const Summary summary = summarize(example());
  EXPECT_EQ(summary.solved_cells, 1);
  EXPECT_THAT(summary.unsolved, ElementsAre("hard at 1024"));
  EXPECT_DOUBLE_EQ(find(summary, "dense").score->mean, 75);
  EXPECT_FALSE(find(summary, "dense").loss.has_value());
  const ConfigSummary& sparse = find(summary, "sparse");
  EXPECT_DOUBLE_EQ(sparse.score->mean, 50);
  EXPECT_DOUBLE_EQ(sparse.loss->mean, 25);
  EXPECT_EQ(sparse.loss->count, 4);
  EXPECT_LE(sparse.loss->low, 25);
  EXPECT_GE(sparse.loss->high, 25);
  EXPECT_EQ(sparse.broken_cases, 1);
  EXPECT_EQ(sparse.repaired_cases, 0);
  EXPECT_EQ(sparse.broken->count, 3);
  EXPECT_GT(find(summary, "stock").broken->high, 0);  // nothing lost in 3 is no proof
  EXPECT_DOUBLE_EQ(find(summary, "stock").loss->mean, 0);
}

TEST(Summary, FollowUpsCountWhereDenseSolvesThem) {
  // Dense: 87.5 in qa, 50 in hard: both count. Sparse: 75 and 62.5.
  const ConfigSummary sparse = find(summarize(example()), "sparse");
  EXPECT_DOUBLE_EQ(sparse.follow_up->mean, (75 + 62.5) / 2);
  EXPECT_DOUBLE_EQ(sparse.follow_up_loss->mean, (12.5 - 12.5) / 2);
}

TEST(Summary, MetricsOfText) {
  const ConfigSummary sparse = find(summarize(example()), "sparse");
  EXPECT_DOUBLE_EQ(sparse.kl->mean, 0.03);
  EXPECT_DOUBLE_EQ(sparse.top1->mean, 0.75);
  EXPECT_NEAR(sparse.perplexity_ratio->mean, std::exp(0.2), 1e-12);
  EXPECT_FALSE(find(summarize(example()), "dense").kl.has_value());
}

// Only cases that both ran: stock has no "hard" ones.
TEST(Summary, SpeedIsPairedWithStock) {
  const Summary summary = summarize(example());
  EXPECT_EQ(summary.speed_reference, "stock");
  EXPECT_DOUBLE_EQ(*find(summary, "sparse").speedup, 2.5);
  EXPECT_DOUBLE_EQ(*find(summary, "dense").speedup, 1.25);
  EXPECT_DOUBLE_EQ(*find(summary, "sparse").work, 0.5);
}

TEST(Summary, OfOneLength) {
  EXPECT_EQ(summarize(example(), 1024).configs.size(), 3u);
  EXPECT_TRUE(summarize(example(), 2048).configs.empty());
}

TEST(Summary, WithoutDenseNothingIsClaimed) {
  const Summary summary =
      summarize(parsed(std::string(kHeader) + result("qa", 1, 0, "sparse", R"("score":1)")));
  EXPECT_FALSE(find(summary, "sparse").score.has_value());
  EXPECT_FALSE(find(summary, "sparse").loss.has_value());
  EXPECT_FALSE(find(summary, "sparse").speedup.has_value());
}

TEST(Summary, OneCaseHasNoInterval) {
  EXPECT_EQ(format_points({12.5, 12.5, 12.5, 1}), "12.5 (1 case)");
  EXPECT_EQ(format_points({12.5, -1, 20, 7}), "12.5 (-1.0 to 20.0)");
}

TEST(Summary, TableSaysWhatDoesNotCount) {
  const std::string table = summary_table(summarize(example()));
  EXPECT_THAT(table, HasSubstr("2.50x"));
  EXPECT_THAT(table, HasSubstr("25.0 ("));
  EXPECT_THAT(table, HasSubstr("do not count: hard at 1024"));
}

}  // namespace
}  // namespace tokensieve::eval::report
