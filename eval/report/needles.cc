#include "eval/report/needles.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "eval/report/page_json.h"

namespace tokensieve::eval::report {
namespace {

constexpr int kMaxDepthRows = 10;

// Depths that occur if these are few, else ten equal rows.
class DepthRows {
 public:
  explicit DepthRows(const EvalRun& run) {
    for (const CaseResult& result : run.results) {
      if (result.depth) depths_.push_back(rounded(*result.depth));
    }
    std::sort(depths_.begin(), depths_.end());
    depths_.erase(std::unique(depths_.begin(), depths_.end()), depths_.end());
  }

  int row(double depth) const {
    if (!binned()) {
      return static_cast<int>(std::lower_bound(depths_.begin(), depths_.end(), rounded(depth)) -
                              depths_.begin());
    }
    return std::min(static_cast<int>(depth * kMaxDepthRows), kMaxDepthRows - 1);
  }

  std::vector<std::string> labels() const {
    std::vector<std::string> labels;
    if (!binned()) {
      for (const double depth : depths_) labels.push_back(fmt::format("{:.0f} %", 100 * depth));
      return labels;
    }
    constexpr int kStep = 100 / kMaxDepthRows;
    for (int row = 0; row < kMaxDepthRows; ++row) {
      labels.push_back(fmt::format("{}–{} %", row * kStep, (row + 1) * kStep));
    }
    return labels;
  }

 private:
  static double rounded(double depth) { return std::round(100 * depth) / 100; }
  bool binned() const { return depths_.size() > kMaxDepthRows; }
  std::vector<double> depths_;
};

}  // namespace

Json needles_json(const EvalRun& run) {
  const DepthRows rows(run);
  // Configuration, task ("": all of them), length, row.
  std::map<std::tuple<std::string, std::string, int32_t, int>, std::vector<double>> cells;
  for (const CaseResult& result : run.results) {
    if (!result.depth || !result.score) continue;
    for (const std::string& task : {std::string(), result.task}) {
      cells[{result.config, task, result.length, rows.row(*result.depth)}].push_back(*result.score);
    }
  }
  Json list = Json::array();
  for (const auto& [key, values] : cells) {
    const auto& [config, task, length, row] = key;
    Json json = mean_json(values);
    json.update({{"config", config}, {"task", task}, {"length", length}, {"row", row}});
    list.push_back(std::move(json));
  }
  return {{"rows", rows.labels()}, {"cells", std::move(list)}};
}

}  // namespace tokensieve::eval::report
