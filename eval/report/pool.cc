#include "eval/report/pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>

#include "common/terminal.h"
#include "eval/report/cases.h"
#include "eval/report/summary.h"

namespace tokensieve::eval::report {
namespace {

std::string text_of(const std::optional<Estimate>& estimate, int digits) {
  if (!estimate || estimate->count == 0) return "-";
  const auto rounded = [&](double value) {  // no -0.0
    const double scale = std::pow(10.0, digits);
    return std::round(scale * value) / scale + 0.0;
  };
  return fmt::format("{:.{}f} ({:.{}f} to {:.{}f}; {})", rounded(estimate->mean), digits,
                     rounded(estimate->low), digits, rounded(estimate->high), digits,
                     estimate->count);
}

Estimate follow_ups_lost(const Cases& cases, const std::string& config) {
  std::map<Cell, std::vector<double>> cells;
  for (const CaseResult* result : cases.of(config)) {
    const CaseResult* dense = cases.find(*result, cases.dense());
    const auto other = follow_up_score(*result);
    const auto own = dense == nullptr ? std::nullopt : follow_up_score(*dense);
    if (own && other) cells[{result->task, result->length}].push_back(100 * (*own - *other));
  }
  std::vector<std::vector<double>> groups;
  for (auto& [cell, differences] : cells) groups.push_back(std::move(differences));
  return eval::bootstrap_mean(groups);
}

void add_rows(const EvalRun& run, int32_t length, cli::Table& table) {
  const Cases cases(run, length);
  for (const ConfigSummary& c : summarize(run, length).configs) {
    if (c.config == cases.dense()) continue;
    table.add_row({length == 0 ? "all" : cli::format_count(length), c.config, text_of(c.loss, 1),
                   text_of(follow_ups_lost(cases, c.config), 1), text_of(c.kl, 4),
                   c.work ? fmt::format("{:.1f} %", 100 * *c.work) : "-"});
  }
}

}  // namespace

Result<EvalRun> pool(std::vector<EvalRun> runs) {
  EvalRun pooled;
  for (size_t i = 0; i < runs.size(); ++i) {
    EvalRun& run = runs[i];
    if (i > 0 && run.model != pooled.model) {
      return Status::error(StatusCode::kInvalidArgument,
                           "%s is a run of %s, %s of %s; --pool takes runs of one model",
                           runs[0].path.c_str(), pooled.model.c_str(), run.path.c_str(),
                           run.model.c_str());
    }
    pooled.model = run.model;
    pooled.path += (i > 0 ? ", " : "") + run.path;
    for (Config& config : run.configs) {
      const auto same = [&](const Config& other) { return other.name == config.name; };
      if (std::none_of(pooled.configs.begin(), pooled.configs.end(), same)) {
        pooled.configs.push_back(std::move(config));
      }
    }
    for (CaseResult& result : run.results) result.run = static_cast<int32_t>(i);
    std::move(run.results.begin(), run.results.end(), std::back_inserter(pooled.results));
  }
  return pooled;
}

std::string pooled_table(const EvalRun& run) {
  cli::Table table;
  table.add_row({"tokens", "configuration", "points lost", "follow-ups lost", "KL", "work"});
  for (const int32_t length : lengths_of(run)) add_rows(run, length, table);
  add_rows(run, 0, table);
  return table.render();
}

}  // namespace tokensieve::eval::report
