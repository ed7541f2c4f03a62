// core/budget against an independent brute force and hand-made cases.
#include "core/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace tokensieve {
namespace {

using testing::ElementsAre;

// ---- Brute force: written from method.md, shares no code with core. ----

std::vector<float> slow_smooth(const std::vector<float>& score, int width) {
  std::vector<float> padded(score.size() + width - 1, 0.0f);
  std::copy(score.begin(), score.end(), padded.begin() + width / 2);
  std::vector<float> pooled(score.size());
  for (size_t i = 0; i < score.size(); ++i) {
    pooled[i] = static_cast<float>(
        std::accumulate(padded.begin() + i, padded.begin() + i + width, 0.0) / width);
  }
  return pooled;
}

int64_t slow_drop(std::vector<double> mean, double tau) {
  const double sum = std::accumulate(mean.begin(), mean.end(), 0.0) + 1e-8;
  std::sort(mean.begin(), mean.end());
  // Largest prefix of the sorted scores whose mass is below tau, plus one if there is any.
  int64_t drop = 0;
  double mass = 0.0;
  while (drop < static_cast<int64_t>(mean.size()) && (mass += mean[drop] / sum) < tau) ++drop;
  return drop > 0 ? drop + 1 : 0;
}

std::vector<int32_t> slow_top(const std::vector<float>& score, int64_t keep, int64_t protect) {
  std::vector<int32_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const bool a_protected = a < protect, b_protected = b < protect;
    if (a_protected != b_protected) return a_protected;
    return score[a] > score[b];
  });
  order.resize(static_cast<size_t>(keep));
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<int32_t> top(const std::vector<float>& score, int64_t keep, int64_t protect,
                         bool normalise = false) {
  std::vector<float> scratch(score.size());
  std::vector<int32_t> indices(static_cast<size_t>(keep), -1);
  top_tokens(score, keep, protect, normalise, scratch, indices.data());
  return indices;
}

int64_t drop(std::vector<double> mean, double tau, Arithmetic arithmetic = Arithmetic::kFp32) {
  return drop_count(mean, tau, arithmetic);
}

// Scores as attention makes them: positive, heavy-tailed; `levels` > 0 makes ties.
std::vector<float> random_scores(size_t size, unsigned seed, int levels = 0) {
  std::mt19937 random(seed);
  std::exponential_distribution<float> exponential(1.0f);
  std::vector<float> score(size);
  for (float& value : score) {
    value = std::pow(exponential(random), 3.0f);
    if (levels > 0) value = std::floor(std::fmin(value, 4.0f) * levels / 4) / levels;
  }
  return score;
}

// ---- smooth ----

TEST(Smooth, CountsTheZeroPaddingInTheDivisor) {
  std::vector<float> pooled(5);
  smooth(std::vector<float>{3, 3, 3, 3, 3}, 3, Arithmetic::kFp32, pooled);
  EXPECT_THAT(pooled, ElementsAre(2, 3, 3, 3, 2));
}

TEST(Smooth, WidthOneIsTheIdentityAndWiderThanTheRowWorks) {
  std::vector<float> pooled(2);
  smooth(std::vector<float>{1, 2}, 1, Arithmetic::kFp32, pooled);
  EXPECT_THAT(pooled, ElementsAre(1, 2));
  smooth(std::vector<float>{7, 14}, 7, Arithmetic::kFp32, pooled);
  EXPECT_THAT(pooled, ElementsAre(3, 3));
}

TEST(Smooth, EqualsTheBruteForce) {
  for (const int width : {1, 3, 7, 31}) {
    for (const size_t size : {1u, 2u, 6u, 7u, 100u}) {
      const std::vector<float> score = random_scores(size, 11 * size + width);
      std::vector<float> pooled(size);
      smooth(score, width, Arithmetic::kFp32, pooled);
      const std::vector<float> expected = slow_smooth(score, width);
      for (size_t i = 0; i < size; ++i) ASSERT_FLOAT_EQ(pooled[i], expected[i]);
    }
  }
}

// ---- mean_rows ----

TEST(MeanRows, AveragesStridedRows) {
  const std::vector<float> pooled = {1, 2, -1, 3, 6, -1};  // two rows of 2, stride 3
  std::vector<double> mean(2);
  mean_rows(pooled.data(), 2, 3, Arithmetic::kFp32, mean);
  EXPECT_THAT(mean, ElementsAre(2, 4));
}

// ---- drop_count ----

TEST(DropCount, HandMadeCases) {
  // Masses .1 .2 .3 .4: one entry stays below .25 and the rule drops one more.
  EXPECT_EQ(drop({.4, .1, .3, .2}, 0.25), 2);
  // The smallest mass already reaches tau: nothing to drop.
  EXPECT_EQ(drop({.4, .1, .3, .2}, 0.05), 0);
  EXPECT_EQ(drop({.4, .1, .3, .2}, 0.0), 0);
  // Running sum must stay strictly below tau.
  EXPECT_EQ(drop({1, 1, 1, 1}, 0.49), 2);
  EXPECT_EQ(drop({1, 1, 1, 1}, 0.5), 3);  // two reach .5 - 1e-9: the divisor is sum + 1e-8
}

TEST(DropCount, OneHotDropsAllOfZeroMass) {
  std::vector<double> mean(1000, 0.0);
  mean[123] = 5.0;
  EXPECT_EQ(drop(mean, 0.005), 1000);  // 999 zeros and the rule's one more: min_keep is the floor
}

TEST(DropCount, EqualScoresDropTheirShare) {
  EXPECT_EQ(drop(std::vector<double>(1000, 0.25), 0.0055), 6);  // 5 below, one more
  EXPECT_EQ(drop(std::vector<double>(1000, 0.0), 0.005), 1001);  // no mass at all
}

TEST(DropCount, EqualsTheBruteForce) {
  for (const double tau : {0.0, 1e-6, 0.005, 0.008, 0.1, 0.5, 0.999}) {
    for (unsigned seed = 0; seed < 20; ++seed) {
      const std::vector<float> score = random_scores(1 + 37 * seed, seed, seed % 3 ? 0 : 8);
      const std::vector<double> mean(score.begin(), score.end());
      EXPECT_EQ(drop(mean, tau), slow_drop(mean, tau)) << "tau " << tau << " seed " << seed;
    }
  }
}

// ---- keep_count ----

TEST(KeepCount, FollowsThePolicyAndTheFloors) {
  SelectConfig c;
  c.min_keep = 10;
  EXPECT_EQ(keep_count(c, 100, 0), 100);  // nothing to drop
  EXPECT_EQ(keep_count(c, 100, 30), 70);
  EXPECT_EQ(keep_count(c, 100, 101), 10);  // drop may exceed the prefix
  c.protect_first = 25;
  EXPECT_EQ(keep_count(c, 100, 95), 25);
  c.budget = BudgetPolicy::kKeepRatio;
  c.keep_ratio = 0.299;
  EXPECT_EQ(keep_count(c, 100, 0), 29);  // floor
  c.budget = BudgetPolicy::kKeepCount;
  c.keep_count = 64;
  EXPECT_EQ(keep_count(c, 100, 0), 64);
  EXPECT_EQ(keep_count(c, 40, 0), 40);  // never more than there are
  EXPECT_EQ(keep_count(c, 0, 0), 0);
}

// ---- top_tokens ----

TEST(TopTokens, TiesGoToTheLowestIndex) {
  EXPECT_THAT(top({1, 1, 1, 1, 1}, 3, 0), ElementsAre(0, 1, 2));
  EXPECT_THAT(top({1, 2, 1, 2, 1}, 3, 0), ElementsAre(0, 1, 3));
  EXPECT_THAT(top({0, 0, 0, 5, 0}, 2, 0), ElementsAre(0, 3));
}

TEST(TopTokens, ProtectsTheFirst) {
  EXPECT_THAT(top({0, 0, 9, 8, 7}, 3, 2), ElementsAre(0, 1, 2));
  EXPECT_THAT(top({0, 0, 9, 8, 7}, 1, 4), ElementsAre(0));  // no more than keep
  EXPECT_THAT(top({5, 4, 3}, 3, 0), ElementsAre(0, 1, 2));
  EXPECT_TRUE(top({5, 4, 3}, 0, 0).empty());
}

TEST(TopTokens, EqualsTheBruteForce) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    const size_t size = 1 + 53 * seed;
    const std::vector<float> score = random_scores(size, seed, seed % 2 ? 5 : 0);
    for (const int64_t protect : {0, 3}) {
      for (const double ratio : {0.05, 0.5, 0.9, 1.0}) {
        const int64_t keep = static_cast<int64_t>(ratio * size);
        EXPECT_EQ(top(score, keep, protect), slow_top(score, keep, std::min(keep, protect)))
            << "size " << size << " keep " << keep << " protect " << protect;
      }
    }
  }
}

// ---- reference_rounding ----

TEST(ReferenceRounding, RoundsToBf16NearestEven) {
  EXPECT_EQ(round_bf16(1.0f), 1.0f);
  EXPECT_EQ(round_bf16(1.0f + 0x1p-8f), 1.0f);             // half way: even is below
  EXPECT_EQ(round_bf16(1.0f + 3 * 0x1p-8f), 1.0f + 0x1p-6f);  // half way: even is above
  EXPECT_EQ(round_bf16(1.0f + 0x1p-8f + 0x1p-16f), 1.0f + 0x1p-7f);
  EXPECT_EQ(round_bf16(-1.0f - 0x1p-9f), -1.0f);
  EXPECT_EQ(round_bf16(0x1.fep127f + 0x1p119f), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(round_bf16(std::nanf(""))));
}

TEST(ReferenceRounding, SmoothsRoundedScores) {
  // bf16 keeps 8 bits: 1 + 2^-9 becomes 1, the mean of three ones stays 1 inside, 2/3 rounds.
  std::vector<float> pooled(3);
  smooth(std::vector<float>(3, 1.0f + 0x1p-9f), 3, Arithmetic::kReferenceRounding, pooled);
  EXPECT_EQ(pooled[1], 1.0f);
  EXPECT_EQ(pooled[0], 0.66796875f);  // bf16 nearest to 2/3
}

TEST(ReferenceRounding, RunningSumUsesRoundedMasses) {
  // Eight equal masses: 1 / bf16(8) = .125 exactly; three of them stay below .4, one more.
  EXPECT_EQ(drop(std::vector<double>(8, 1.0), 0.4, Arithmetic::kReferenceRounding), 4);
  // 300 ones: the sum 300 is not a bf16 (nearest even 300 -> 300 = 0x4396, exact), each mass is
  // bf16(1/300) = 0.003326416; 0.03 holds 9 of them (0.0299377).
  EXPECT_EQ(drop(std::vector<double>(300, 1.0), 0.03, Arithmetic::kReferenceRounding), 10);
  // In fp32 mode 1/300 = 0.0033333: 9 reach 0.03 exactly minus 1e-8 of the divisor.
  EXPECT_EQ(drop(std::vector<double>(300, 1.0), 0.0299, Arithmetic::kFp32), 9);
}

TEST(ReferenceRounding, RanksRoundedScores) {
  // 100 and 100.1 are one bf16 after normalisation: a tie, the lower index wins.
  EXPECT_THAT(top({100.0f, 100.1f, 1.0f}, 1, 0, /*normalise=*/true), ElementsAre(0));
  EXPECT_THAT(top({100.0f, 100.1f, 1.0f}, 1, 0, /*normalise=*/false), ElementsAre(1));
}

TEST(AllFinite, FindsNanAndInf) {
  EXPECT_TRUE(all_finite(std::vector<float>{0, -1, 3e38f}));
  EXPECT_FALSE(all_finite(std::vector<float>{0, std::nanf(""), 1}));
  EXPECT_FALSE(all_finite(std::vector<float>{0, -INFINITY}));
  EXPECT_TRUE(all_finite({}));
}

}  // namespace
}  // namespace tokensieve
