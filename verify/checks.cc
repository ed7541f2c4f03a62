// Tolerances: tests/golden/README.md.
#include "verify/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "verify/compare.h"
#include "ref/attend.h"
#include "ref/elements.h"
#include "ref/select.h"

namespace tokensieve::verify {
namespace {

constexpr double kOracleTolerance = 1e-6;        // score, pooled, layer: the golden ones are f32
constexpr double kGoldenOutputTolerance = 5e-4;  // `output` is rounded to f16
constexpr double kWorkTolerance = 1e-12;         // whole pairs, divided

// The golden output as [seq, head, dim], the oracle's order.
std::vector<double> golden_output(const GoldenCase& golden) {
  const AttentionShape& s = golden.shape;
  std::vector<double> result;
  result.reserve(golden.output.size());
  for (int64_t i = 0; i < s.seqlen_q; ++i) {
    for (int64_t h = 0; h < s.num_q_heads; ++h) {
      const uint16_t* row = &golden.output[(h * s.seqlen_q + i) * s.head_dim];
      for (int64_t d = 0; d < s.head_dim; ++d) result.push_back(ref::decode(row[d], ref::kF16));
    }
  }
  return result;
}

// What head h's tokens are ranked by, from the golden pooled scores.
std::vector<double> golden_rank(const GoldenCase& golden, const Plan& plan, int64_t h) {
  const int64_t heads_per_set = plan.shape.num_q_heads / plan.num_sets;
  const std::vector<double> pooled(golden.pooled.begin(), golden.pooled.end());
  return ref::mean_of_rows(pooled, golden.prefix_len(), h / heads_per_set * heads_per_set,
                           heads_per_set, Arithmetic::kFp32);
}

}  // namespace

std::pair<std::vector<double>, std::vector<double>> expected_outputs(
    const GoldenCase& golden, const ref::OracleResult& oracle, const Plan& plan,
    const TokenSets& sets, Executor& executor) {
  if (sets == sets_per_head(plan, oracle.sequences[0].kept)) return {oracle.out, oracle.lse};
  Plan per_head = plan;
  per_head.num_sets = plan.shape.num_q_heads;
  ref::Selection selection;
  selection.kept = sets;
  std::vector<double> out(oracle.out.size()), lse(oracle.lse.size());
  const Status status = ref::attend(per_head, golden.inputs(), 0, selection, {},
                                    {.executor = &executor}, out.data(), lse.data());
  if (!status.ok()) out.assign(out.size(), kNoError);
  return {out, lse};
}

Check failed(const char* stage, const Status& status) {
  return {stage, "status", kNoError, 0.0, status.message()};
}

std::span<const int32_t> row_of(const std::vector<int32_t>& indices, int64_t columns, int64_t h) {
  return {indices.data() + h * columns, static_cast<size_t>(columns)};
}

TokenSets sets_per_head(const Plan& plan, const TokenSets& sets) {
  TokenSets result;
  for (int64_t h = 0; h < plan.shape.num_q_heads; ++h) {
    if (sets.empty()) {
      result.emplace_back(plan.shape.seqlen_kv);
      std::iota(result.back().begin(), result.back().end(), 0);
    } else {
      result.push_back(sets[h * plan.num_sets / plan.shape.num_q_heads]);
    }
  }
  return result;
}

Check indices_check(const GoldenCase& golden, const Plan& plan, const TokenSets& sets, double tie) {
  Check check = {"select", "different tokens", 0.0, 0.0, ""};
  int64_t swaps = 0;
  for (int64_t h = 0; h < golden.shape.num_q_heads; ++h) {
    const std::span<const int32_t> expected = row_of(golden.indices, golden.kept, h);
    std::vector<int32_t> different = only_in(sets[h], expected);
    const std::vector<int32_t> missing = only_in(expected, sets[h]);
    different.insert(different.end(), missing.begin(), missing.end());
    if (different.empty()) continue;
    if (plan.num_sets == 0) {  // dense by plan: no ranks to excuse anything
      check.error += static_cast<double>(different.size());
      check.detail = fmt::format("head {}: token {}", h, different.front());
      continue;
    }
    const std::vector<double> rank = golden_rank(golden, plan, h);
    double threshold = std::numeric_limits<double>::infinity();  // the smallest kept score
    for (int32_t j : expected) {
      if (j < golden.prefix_len()) threshold = std::min(threshold, rank[j]);
    }
    for (int32_t j : different) {
      const bool excused =
          j < golden.prefix_len() && std::fabs(rank[j] - threshold) <= tie * std::fabs(threshold);
      swaps += excused;
      check.error += excused ? 0 : 1;
      if (!excused) check.detail = fmt::format("head {}: token {}", h, j);
    }
  }
  if (check.detail.empty() && swaps > 0) check.detail = fmt::format("{} near ties differ", swaps);
  return check;
}

Check keep_check(const GoldenCase& golden, int64_t keep, double tie) {
  Check check = {"budget", "keep differs by", static_cast<double>(std::abs(keep - golden.keep)),
                 0.0, fmt::format("keep {}", keep)};
  if (check.error == 0 || tie == 0 || golden.select.budget != BudgetPolicy::kTau) return check;
  std::vector<double> mass(golden.layer.begin(), golden.layer.end());
  std::sort(mass.begin(), mass.end());
  const int64_t prefix = golden.prefix_len();
  const auto [low, high] = std::minmax(keep, golden.keep);
  double running = 0.0;
  bool excused = true;
  for (int64_t i = 0; i < prefix; ++i) {
    running += mass[i];
    // keep = prefix - drop - 1 and drop entries stay below tau.
    const bool between = i >= prefix - high - 1 && i < prefix - low - 1;
    if (between && std::fabs(running - golden.select.tau) > tie * golden.select.tau) {
      excused = false;
    }
  }
  if (excused) check.tolerance = check.error, check.detail += ": tau is a near tie";
  return check;
}

Check work_check(const GoldenCase& golden, double work) {
  return {"report", "work differs by", std::fabs(work - golden.work()), kWorkTolerance,
          fmt::format("work {:.4f}", work)};
}

Check official_check(const GoldenCase& golden, const char* stage, double tolerance,
                     const TokenSets& sets) {
  int64_t common = 0, ours = 0, theirs = 0;
  for (int64_t h = 0; h < golden.shape.num_q_heads; ++h) {
    const auto official = row_of(golden.official_indices, golden.official_kept, h);
    ours += static_cast<int64_t>(sets[h].size());
    theirs += static_cast<int64_t>(official.size());
    common += static_cast<int64_t>(sets[h].size() - only_in(sets[h], official).size());
  }
  const double larger = static_cast<double>(std::max<int64_t>({ours, theirs, 1}));
  return {stage, "1 - overlap", 1.0 - static_cast<double>(common) / larger, tolerance,
          fmt::format("{} of {} official tokens", common, theirs)};
}

std::vector<Check> check_oracle(const GoldenCase& golden, Executor& executor,
                                ref::OracleResult& oracle) {
  const AttentionShape& s = golden.shape;
  const int64_t prefix = golden.prefix_len();
  const PlanOptions plan_options = {.backend = Backend::kRef,
                                    .num_threads = executor.num_threads()};
  Plan plan = make_plan(s, golden.select, plan_options).value();  // load_golden made it before
  const RunOptions options = {.executor = &executor};
  if (Status status = ref::run_oracle(plan, golden.inputs(), options, oracle); !status.ok()) {
    return {failed("run", status)};
  }
  const ref::Selection& chosen = oracle.sequences[0];
  const auto sets = sets_per_head(plan, chosen.kept);
  std::vector<Check> checks;
  if (plan.path == Path::kSparse) {
    const auto add = [&](const char* stage, const auto& actual, const auto& expected,
                         std::vector<int64_t> shape) {
      // Entries far below the mean are measured against it: they are sums that nearly cancel.
      const double mean = std::accumulate(expected.begin(), expected.end(), 0.0) /
                          static_cast<double>(expected.size());
      const Difference d = max_relative(actual, expected, 1e-3 * mean);
      checks.push_back({stage, "max relative", d.error, kOracleTolerance,
                        "worst at " + index_text(d.worst, shape)});
    };
    add("score", chosen.token_score, golden.score, {s.num_q_heads, prefix});
    add("pooled", chosen.budget.pooled, golden.pooled, {s.num_q_heads, prefix});
    add("layer", chosen.budget.layer, golden.layer, {prefix});
    checks.push_back({"budget", "drop differs by",
                      static_cast<double>(std::abs(chosen.budget.drop - golden.drop)), 0.0,
                      fmt::format("drop {}", chosen.budget.drop)});
  }
  const int64_t keep = chosen.dense() ? prefix : chosen.budget.keep;
  checks.push_back(keep_check(golden, keep, 0.0));
  checks.push_back(indices_check(golden, plan, sets, 0.0));
  if (golden.select.fill == Fill::kZero) {
    checks.push_back(zero_rows_check(golden, sets, oracle.out));
  }
  checks.push_back(rel_l2_check("run", oracle.out, golden_output(golden), kGoldenOutputTolerance,
                                {s.seqlen_q, s.num_q_heads, s.head_dim}));
  if (golden.pairs > 0) checks.push_back(work_check(golden, oracle.report.work));
  if (golden.official_indices.empty() || plan.path == Path::kDense) return checks;

  plan.select.arithmetic = Arithmetic::kReferenceRounding;
  const std::vector<double> score(golden.score.begin(), golden.score.end());
  const ref::Budget fed = ref::budget(plan, score);
  checks.push_back(official_check(golden, "rounding", 0.0,
                                  sets_per_head(plan, ref::select(plan, fed.pooled, fed.keep))));
  const AttentionInputs in = golden.inputs();
  const ref::Selection own = ref::select_sequence(plan, in, 0, options);
  checks.push_back(
      official_check(golden, "official", kOfficialMiss, sets_per_head(plan, own.kept)));
  return checks;
}

}  // namespace tokensieve::verify
