// The headline numbers of a run. The page, the terminal and `eval` show these and compute none of
// their own.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "eval/statistics.h"
#include "eval/report/run_file.h"

namespace tokensieve::eval::report {

// One configuration over the cases of one length, or of all. Absent: nothing was measured.
struct ConfigSummary {
  std::string config;
  std::string kind;
  // Points (0 to 100) on the (task, length) cells that dense solves.
  std::optional<Estimate> score;
  std::optional<Estimate> loss;  // points lost against dense, paired by case; not for dense itself
  // Cases that dense answers in full and this does not, and their share of what dense answers in
  // full: an interval that stays honest when nothing was lost.
  std::optional<Estimate> broken;
  int32_t broken_cases = 0;
  int32_t repaired_cases = 0;              // the other way round
  std::optional<Estimate> follow_up;       // as `score`, of later questions
  std::optional<Estimate> follow_up_loss;  // as `loss`
  // On real text, against dense.
  std::optional<Estimate> kl;
  std::optional<Estimate> top1;              // share of tokens with the same best guess
  std::optional<Estimate> perplexity_ratio;  // to dense
  std::optional<double> work;                // computed / causal (query, key) pairs
  std::optional<double> block_density;       // visited / visible tiles, where block masks steer
  std::optional<double> keep_ratio;
  std::optional<double> prefill_ms;    // mean of a case
  std::optional<double> attention_ms;  // mean of a case
  std::optional<double> speedup;       // of prefill; total time of the reference / own
};

struct Summary {
  std::vector<ConfigSummary> configs;  // in the header's order
  std::string speed_reference;         // "stock" if it ran, else "dense"; empty: neither
  int32_t solved_cells = 0;
  std::vector<std::string> unsolved;  // "task at length" that dense fails; they do not count
};

// `length` 0: all lengths.
Summary summarize(const EvalRun& run, int32_t length = 0);

// For the terminal; says which tasks do not count.
std::string summary_table(const Summary& summary);

std::string format_points(const Estimate& estimate);  // "0.4 (-0.2 to 1.1)", "0.0 (1 case)"

}  // namespace tokensieve::eval::report
