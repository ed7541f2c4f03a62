// Distances between next-token distributions.
#include "eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tokensieve::eval {
namespace {

TEST(EvalMetrics, KnownDistributions) {
  Predictions a, b;
  // (1/2, 1/4, 1/4) against (1/4, 1/2, 1/4): KL = ln 2 / 4.
  const float half = std::log(0.5f), quarter = std::log(0.25f);
  a.add(std::vector<float>{half, quarter, quarter}, 0);
  b.add(std::vector<float>{quarter + 3, half + 3, quarter + 3}, 0);
  a.add(std::vector<float>{half, quarter, quarter}, 2);
  b.add(std::vector<float>{half, quarter, quarter}, 2);
  const Metrics m = compare(a, b);
  EXPECT_EQ(m.tokens, 2);
  EXPECT_NEAR(m.kl_max, std::log(2.0) / 4, 1e-6);
  EXPECT_NEAR(m.kl, std::log(2.0) / 8, 1e-6);
  EXPECT_DOUBLE_EQ(m.top1, 0.5);
  EXPECT_NEAR(m.nll_dense, (std::log(2.0) + std::log(4.0)) / 2, 1e-6);
  EXPECT_NEAR(m.nll, std::log(4.0), 1e-6);
}

TEST(EvalMetrics, UnlikelyTokensCostNothing) {
  Predictions a;
  a.add(std::vector<float>{0, -INFINITY, -80}, 0);
  const Metrics m = compare(a, a);
  EXPECT_EQ(m.kl, 0);
  EXPECT_EQ(m.top1, 1);
  EXPECT_NEAR(m.nll, 0, 1e-9);
}

}  // namespace
}  // namespace tokensieve::eval
