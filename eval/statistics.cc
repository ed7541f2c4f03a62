#include "eval/statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "eval/random.h"

namespace tokensieve::eval {
namespace {

constexpr int32_t kResamples = 10000;
constexpr double kTail = 0.025;                // of a 95 % interval, on each side
constexpr double kNormal = 1.959963984540054;  // its quantile

double sum(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// The sum of as many values as there are, drawn with replacement.
double resampled_sum(std::span<const double> values, Random& random) {
  const auto count = static_cast<uint32_t>(values.size());
  double total = 0;
  for (uint32_t i = 0; i < count; ++i) total += values[random.below(count)];
  return total;
}

}  // namespace

double mean(std::span<const double> values) {
  return values.empty() ? 0 : sum(values) / static_cast<double>(values.size());
}

double median(std::span<const double> values) {
  if (values.empty()) return 0;
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

Estimate bootstrap_mean(std::span<const std::vector<double>> groups, uint64_t seed) {
  size_t count = 0;
  double total = 0;
  for (const auto& group : groups) {
    count += group.size();
    total += sum(group);
  }
  if (count == 0) return {};
  const auto values = static_cast<double>(count);
  Random random(seed);
  std::vector<double> means(kResamples);
  for (double& resampled : means) {
    double resampled_total = 0;
    for (const auto& group : groups) resampled_total += resampled_sum(group, random);
    resampled = resampled_total / values;
  }
  std::sort(means.begin(), means.end());
  const auto tail = static_cast<size_t>(kTail * kResamples);
  return {total / values, means[tail], means[kResamples - 1 - tail], static_cast<int32_t>(count)};
}

Estimate bootstrap_mean(std::span<const double> values, uint64_t seed) {
  const std::vector<double> group(values.begin(), values.end());
  return bootstrap_mean(std::span(&group, 1), seed);
}

Estimate proportion(int32_t hits, int32_t count) {
  if (count <= 0) return {};
  const double n = count;
  const double share = hits / n;
  const double z2 = kNormal * kNormal;
  const double center = (share + z2 / (2 * n)) / (1 + z2 / n);
  const double half =
      kNormal * std::sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n);
  return {share, std::max(0.0, center - half), std::min(1.0, center + half), count};
}

Loss loss_where_dense_solves(std::span<const PairedScore> scores, uint64_t seed) {
  std::map<std::pair<std::string, int32_t>, std::vector<PairedScore>> cells;
  for (const PairedScore& score : scores) cells[{score.task, score.length}].push_back(score);
  Loss loss;
  std::vector<std::vector<double>> differences;  // in points, by solved cell
  int32_t solved_cases = 0;
  for (const auto& [cell, cases] : cells) {
    std::vector<double> dense, difference;
    for (const PairedScore& score : cases) {
      dense.push_back(score.dense);
      difference.push_back(100 * (score.dense - score.other));
    }
    if (mean(dense) < kSolvedMean) {
      loss.unsolved.push_back(fmt::format("{} at {}", cell.first, cell.second));
      continue;
    }
    ++loss.solved_cells;
    for (const PairedScore& score : cases) {
      solved_cases += score.dense == 1;
      loss.broken_cases += score.dense == 1 && score.other < 1;
      loss.repaired_cases += score.dense < 1 && score.other == 1;
    }
    differences.push_back(std::move(difference));
  }
  loss.points = bootstrap_mean(differences, seed);
  loss.broken = proportion(loss.broken_cases, solved_cases);
  return loss;
}

}  // namespace tokensieve::eval
