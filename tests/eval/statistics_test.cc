// Intervals against closed forms, and the definition of loss.
#include "eval/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "eval/random.h"

namespace tokensieve::eval {
namespace {

using testing::ElementsAre;

// splitmix64's published outputs for seed 1234567.
TEST(Random, IsSplitmix64) {
  Random random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317u);
  EXPECT_EQ(random.next(), 3203168211198807973u);
  EXPECT_EQ(random.next(), 9817491932198370423u);
}

TEST(Random, BelowStaysBelowAndReachesEverything) {
  Random random(1);
  std::vector<int> seen(7);
  for (int i = 0; i < 7000; ++i) ++seen.at(random.below(7));
  for (const int count : seen) EXPECT_NEAR(count, 1000, 150);
}

TEST(Random, ShuffleKeepsEveryValue) {
  Random random(1);
  std::vector<int> values = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<int> before = values;
  random.shuffle(values);
  EXPECT_NE(values, before);
  EXPECT_THAT(values, testing::UnorderedElementsAreArray(before));
}

TEST(Statistics, MeanAndMedian) {
  EXPECT_EQ(mean({}), 0);
  EXPECT_EQ(median({}), 0);
  const std::vector<double> odd = {5, 1, 3}, even = {4, 1, 3, 2};
  EXPECT_EQ(mean(odd), 3);
  EXPECT_EQ(median(odd), 3);
  EXPECT_EQ(median(even), 2.5);
}

TEST(Bootstrap, OfNothingAndOfOneValue) {
  EXPECT_EQ(bootstrap_mean(std::span<const double>{}).count, 0);
  const std::vector<double> one = {2.5};
  const Estimate estimate = bootstrap_mean(one);
  EXPECT_EQ(estimate.count, 1);
  EXPECT_EQ(estimate.mean, 2.5);
  EXPECT_EQ(estimate.low, 2.5);
  EXPECT_EQ(estimate.high, 2.5);
}

// The bootstrap mean's standard deviation is sigma / sqrt(n), with sigma over n.
TEST(Bootstrap, AgreesWithTheNormalIntervalOfManyValues) {
  Random random(3);
  std::vector<double> values(400);
  for (double& value : values) value = random.below(1000);
  const double average = mean(values);
  double variance = 0;
  for (const double value : values) variance += (value - average) * (value - average) / 400;
  const double half = 1.96 * std::sqrt(variance / 400);
  const Estimate estimate = bootstrap_mean(values);
  EXPECT_DOUBLE_EQ(estimate.mean, average);
  EXPECT_NEAR(estimate.low, average - half, 0.05 * half);
  EXPECT_NEAR(estimate.high, average + half, 0.05 * half);
}

// Resampled means of zeros and ones are binomial: B(20, 0.5) / 20 has the 2.5 % points 0.3 and 0.7.
TEST(Bootstrap, OfCoinFlipsIsBinomial) {
  std::vector<double> flips(20, 0.0);
  std::fill(flips.begin(), flips.begin() + 10, 1.0);
  const Estimate estimate = bootstrap_mean(flips);
  EXPECT_DOUBLE_EQ(estimate.low, 0.3);
  EXPECT_DOUBLE_EQ(estimate.high, 0.7);
}

TEST(Bootstrap, IsTheSameForTheSameSeedOnly) {
  const std::vector<double> values = {0.11, 0.57, 0.93, 0.25, 0.38, 0.71, 0.02};
  EXPECT_EQ(bootstrap_mean(values, 5).low, bootstrap_mean(values, 5).low);
  EXPECT_NE(bootstrap_mean(values, 5).low, bootstrap_mean(values, 6).low);
}

// Groups that differ from each other but not within have nothing to resample.
TEST(Bootstrap, OfGroupsResamplesWithinThem) {
  const std::vector<std::vector<double>> groups = {{0, 0, 0}, {1, 1, 1, 1, 1}};
  const Estimate estimate = bootstrap_mean(groups);
  EXPECT_DOUBLE_EQ(estimate.mean, 0.625);
  EXPECT_DOUBLE_EQ(estimate.low, 0.625);
  EXPECT_DOUBLE_EQ(estimate.high, 0.625);
  EXPECT_EQ(estimate.count, 8);
}

// Wilson's interval as tabulated: 0 of 10 and 8 of 10.
TEST(Proportion, IsWilsonsInterval) {
  const Estimate none = proportion(0, 10);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, 0.2775, 5e-5);
  const Estimate most = proportion(8, 10);
  EXPECT_DOUBLE_EQ(most.mean, 0.8);
  EXPECT_NEAR(most.low, 0.4902, 5e-5);
  EXPECT_NEAR(most.high, 0.9433, 5e-5);
  EXPECT_EQ(proportion(0, 0).count, 0);
}

std::vector<PairedScore> cell(const char* task, int32_t length,
                              std::vector<std::pair<double, double>> scores) {
  std::vector<PairedScore> cases;
  for (const auto& [dense, other] : scores) cases.push_back({task, length, dense, other});
  return cases;
}

std::vector<PairedScore> join(std::vector<std::vector<PairedScore>> cells) {
  std::vector<PairedScore> all;
  for (const auto& cases : cells) all.insert(all.end(), cases.begin(), cases.end());
  return all;
}

TEST(Loss, CountsSolvedCellsOnlyAndAllTheirCases) {
  const Loss loss = loss_where_dense_solves(
      join({cell("qa", 1024, {{1, 1}, {1, 0}, {0, 1}, {1, 1}}),    // dense .75
            cell("qa", 2048, {{0, 1}, {0, 1}, {1, 0}}),            // dense .33: fails
            cell("multi_value", 1024, {{1, 0.5}, {0.5, 0.5}})}));  // dense .75
  EXPECT_EQ(loss.solved_cells, 2);
  EXPECT_THAT(loss.unsolved, ElementsAre("qa at 2048"));
  EXPECT_EQ(loss.points.count, 6);
  EXPECT_DOUBLE_EQ(loss.points.mean, 100 * (1 - 1 + 0.5) / 6);
  EXPECT_LE(loss.points.low, loss.points.mean);
  EXPECT_GE(loss.points.high, loss.points.mean);
  EXPECT_EQ(loss.broken_cases, 2);
  EXPECT_EQ(loss.repaired_cases, 1);
  EXPECT_EQ(loss.broken.count, 4);  // full dense scores
  EXPECT_DOUBLE_EQ(loss.broken.mean, 0.5);
}

TEST(Loss, OfTheSameAnswersIsZeroButNotCertain) {
  const Loss loss = loss_where_dense_solves(cell("qa", 1024, {{1, 1}, {1, 1}, {1, 1}, {1, 1}}));
  EXPECT_EQ(loss.points.mean, 0);
  EXPECT_EQ(loss.broken.mean, 0);
  EXPECT_GT(loss.broken.high, 0.4);  // four cases prove little
}

TEST(Loss, WithNothingSolvedClaimsNothing) {
  const Loss loss = loss_where_dense_solves(cell("qa", 1024, {{0, 0}, {0.25, 1}}));
  EXPECT_EQ(loss.points.count, 0);
  EXPECT_EQ(loss.solved_cells, 0);
  EXPECT_THAT(loss.unsolved, ElementsAre("qa at 1024"));
}

}  // namespace
}  // namespace tokensieve::eval
