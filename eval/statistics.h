// Means with intervals, and what "loss" means. Deterministic: the same numbers and seed give the
// same interval on every machine. Definitions: docs/evaluation.md, "Statistics".
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tokensieve::eval {

// A mean with its 95 % interval.
struct Estimate {
  double mean = 0;
  double low = 0;
  double high = 0;
  int32_t count = 0;  // values; 0: nothing is known
};

double mean(std::span<const double> values);    // 0 of none
double median(std::span<const double> values);  // 0 of none

// Percentile bootstrap (10,000 resamples). For a paired comparison pass the differences per case.
// A mean of logarithms gives a ratio's interval: take exp() of all three numbers.
Estimate bootstrap_mean(std::span<const double> values, uint64_t seed = 1);
// Resamples within every group, so that a group's share of the mean stays what it is.
Estimate bootstrap_mean(std::span<const std::vector<double>> groups, uint64_t seed = 1);

// The share hits / count with its Wilson 95 % interval, which stays honest at 0 and 1, where
// resampling would claim certainty.
Estimate proportion(int32_t hits, int32_t count);

// One case, answered twice.
struct PairedScore {
  std::string task;
  int32_t length = 0;
  double dense = 0;  // 0 to 1, what dense attention scored
  double other = 0;  // 0 to 1, the configuration under test
};

// A cell (task, length) is solved by dense if dense's mean score in it is at least this.
inline constexpr double kSolvedMean = 0.5;

// Loss on tasks that dense solves. All cases of a solved cell count, also those that dense got
// wrong: picking single cases by dense's own score would let luck look like a loss.
struct Loss {
  Estimate points;  // mean of 100 * (dense - other) over the cases of solved cells
  Estimate broken;  // share of the cases with a full dense score that the other does not get
  int32_t broken_cases = 0;    // full score dense, less with the other
  int32_t repaired_cases = 0;  // the other way round, in solved cells
  int32_t solved_cells = 0;
  std::vector<std::string> unsolved;  // "task at length" that dense fails: say so, claim nothing
};
Loss loss_where_dense_solves(std::span<const PairedScore> scores, uint64_t seed = 1);

}  // namespace tokensieve::eval
