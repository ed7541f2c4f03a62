#include "eval/report/summary.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <functional>
#include <map>

#include "eval/report/cases.h"
#include "common/terminal.h"

namespace tokensieve::eval::report {
namespace {

using Value = std::function<std::optional<double>(const CaseResult&)>;

std::optional<Estimate> known(const Estimate& estimate) {
  if (estimate.count == 0) return {};
  return estimate;
}

std::optional<double> mean_of(const std::vector<const CaseResult*>& results, const Value& value) {
  std::vector<double> values;
  for (const CaseResult* result : results) {
    if (const auto v = value(*result)) values.push_back(*v);
  }
  if (values.empty()) return {};
  return eval::mean(values);
}

// Over the cases that have the value; every length keeps its share in the resamples.
std::optional<Estimate> estimate(const std::vector<const CaseResult*>& results,
                                 const Value& value) {
  std::map<Cell, std::vector<double>> cells;
  for (const CaseResult* result : results) {
    if (const auto v = value(*result)) cells[{result->task, result->length}].push_back(*v);
  }
  std::vector<std::vector<double>> groups;
  for (auto& [cell, values] : cells) groups.push_back(std::move(values));
  return known(eval::bootstrap_mean(groups));
}

// What dense scores in each cell; a cell without dense is not in it.
std::map<Cell, double> dense_means(const Cases& cases, const Value& value) {
  std::map<Cell, std::vector<double>> scores;
  for (const CaseResult* result : cases.of(cases.dense())) {
    if (const auto v = value(*result)) scores[{result->task, result->length}].push_back(*v);
  }
  std::map<Cell, double> means;
  for (const auto& [cell, values] : scores) means[cell] = eval::mean(values);
  return means;
}

struct Scores {
  std::optional<Estimate> score;
  std::optional<eval::Loss> loss;
};

// `value`: a score from 0 to 1.
Scores score_against_dense(const Cases& cases, const std::string& config, const Value& value) {
  const std::map<Cell, double> dense = dense_means(cases, value);
  Scores scores;
  scores.score = estimate(cases.of(config), [&](const CaseResult& result) -> std::optional<double> {
    const auto cell = dense.find({result.task, result.length});
    const auto v = value(result);
    if (!v || cell == dense.end() || cell->second < eval::kSolvedMean) return {};
    return 100 * *v;
  });
  if (config == cases.dense()) return scores;
  std::vector<eval::PairedScore> pairs;
  for (const CaseResult* result : cases.of(config)) {
    const CaseResult* reference = cases.find(*result, cases.dense());
    const auto other = value(*result);
    const auto own = reference == nullptr ? std::nullopt : value(*reference);
    if (own && other) pairs.push_back({result->task, result->length, *own, *other});
  }
  const eval::Loss loss = eval::loss_where_dense_solves(pairs);
  if (loss.points.count > 0) scores.loss = loss;
  return scores;
}

std::optional<double> speedup(const Cases& cases, const std::string& config) {
  double own = 0, reference = 0;
  for (const CaseResult* result : cases.of(config)) {
    const CaseResult* other = cases.find(*result, cases.speed_reference());
    if (other == nullptr || !result->prefill_ms || !other->prefill_ms) continue;
    own += *result->prefill_ms;
    reference += *other->prefill_ms;
  }
  if (own <= 0) return {};
  return reference / own;
}

Value metric(double Metrics::*field) {
  return [field](const CaseResult& result) -> std::optional<double> {
    if (!result.metrics) return {};
    return (*result.metrics).*field;
  };
}

std::optional<Estimate> perplexity_ratio(const std::vector<const CaseResult*>& results) {
  auto ratio = estimate(results, [](const CaseResult& result) -> std::optional<double> {
    if (!result.metrics) return {};
    return result.metrics->nll - result.metrics->nll_dense;
  });
  if (ratio) {
    for (double* bound : {&ratio->mean, &ratio->low, &ratio->high}) *bound = std::exp(*bound);
  }
  return ratio;
}

ConfigSummary summarize_config(const Cases& cases, const Config& config) {
  const auto& results = cases.of(config.name);
  ConfigSummary summary;
  summary.config = config.name;
  summary.kind = config.kind;
  const Scores scores =
      score_against_dense(cases, config.name, [](const CaseResult& r) { return r.score; });
  summary.score = scores.score;
  if (scores.loss) {
    summary.loss = scores.loss->points;
    summary.broken = known(scores.loss->broken);
    summary.broken_cases = scores.loss->broken_cases;
    summary.repaired_cases = scores.loss->repaired_cases;
  }
  const Scores later = score_against_dense(cases, config.name, follow_up_score);
  summary.follow_up = later.score;
  if (later.loss) summary.follow_up_loss = later.loss->points;
  summary.kl = estimate(results, metric(&Metrics::kl));
  summary.top1 = estimate(results, metric(&Metrics::top1));
  summary.perplexity_ratio = perplexity_ratio(results);
  summary.work = mean_of(results, [](const CaseResult& r) { return r.work; });
  summary.block_density = mean_of(results, [](const CaseResult& r) { return r.block_density; });
  summary.keep_ratio = mean_of(results, [](const CaseResult& r) { return r.keep_ratio; });
  summary.prefill_ms = mean_of(results, [](const CaseResult& r) { return r.prefill_ms; });
  summary.attention_ms = mean_of(results, [](const CaseResult& r) { return r.attention_ms; });
  summary.speedup = speedup(cases, config.name);
  return summary;
}

template <typename T, typename Format>
std::string cell(const std::optional<T>& value, const Format& format) {
  return value ? format(*value) : "-";
}

}  // namespace

Summary summarize(const EvalRun& run, int32_t length) {
  const Cases cases(run, length);
  Summary summary;
  summary.speed_reference = cases.speed_reference();
  for (const auto& [cell, mean] : dense_means(cases, [](const CaseResult& r) { return r.score; })) {
    if (mean >= eval::kSolvedMean) {
      ++summary.solved_cells;
    } else {
      summary.unsolved.push_back(fmt::format("{} at {}", cell.first, cell.second));
    }
  }
  for (const Config& config : run.configs) {
    if (cases.of(config.name).empty()) continue;
    summary.configs.push_back(summarize_config(cases, config));
  }
  return summary;
}

std::string format_points(const Estimate& e) {
  const auto tenths = [](double value) { return std::round(10 * value) / 10 + 0.0; };  // no -0.0
  if (e.count == 1) return fmt::format("{:.1f} (1 case)", tenths(e.mean));
  return fmt::format("{:.1f} ({:.1f} to {:.1f})", tenths(e.mean), tenths(e.low), tenths(e.high));
}

std::string summary_table(const Summary& summary) {
  const auto plain = [](const char* format) {
    return [format](double value) { return fmt::format(fmt::runtime(format), value); };
  };
  const auto percent = [](double value) { return fmt::format("{:.1f} %", 100 * value); };
  const auto tiles = [](double value) { return fmt::format(" (tiles {:.1f} %)", 100 * value); };
  cli::Table table;
  table.add_row({"configuration", "score", "loss in points", "KL", "top-1", "follow-up loss",
                 "work", "prefill", "speed-up"});
  for (const ConfigSummary& c : summary.configs) {
    const auto mean = [](const auto& format) {
      return [format](const Estimate& e) { return format(e.mean); };
    };
    table.add_row({c.config, cell(c.score, mean(plain("{:.1f}"))), cell(c.loss, format_points),
                   cell(c.kl, mean(plain("{:.4f}"))), cell(c.top1, mean(percent)),
                   cell(c.follow_up_loss, format_points),
                   cell(c.work, percent) + (c.block_density ? tiles(*c.block_density) : ""),
                   cell(c.prefill_ms, cli::format_duration), cell(c.speedup, plain("{:.2f}x"))});
  }
  std::string text = table.render();
  if (!summary.unsolved.empty()) {
    text += fmt::format("Dense fails (score under {:.0f} %), so these do not count: {}\n",
                        100 * eval::kSolvedMean, fmt::join(summary.unsolved, ", "));
  }
  return text;
}

}  // namespace tokensieve::eval::report
