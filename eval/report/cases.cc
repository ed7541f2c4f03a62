#include "eval/report/cases.h"

#include <algorithm>
#include <set>

namespace tokensieve::eval::report {
namespace {

// The first of `kinds` that a configuration with results has.
std::string first_of_kind(const EvalRun& run, std::initializer_list<const char*> kinds,
                          const std::map<std::string, std::vector<const CaseResult*>>& by_config) {
  for (const char* kind : kinds) {
    for (const Config& config : run.configs) {
      if (config.kind == kind && by_config.contains(config.name)) return config.name;
    }
  }
  return "";
}

}  // namespace

Cases::Cases(const EvalRun& run, int32_t length) {
  for (const CaseResult& result : run.results) {
    if (length != 0 && result.length != length) continue;
    by_config_[result.config].push_back(&result);
    by_case_[{result.key(), result.config}] = &result;
  }
  dense_ = first_of_kind(run, {"dense", "stock"}, by_config_);
  speed_reference_ = first_of_kind(run, {"stock", "dense"}, by_config_);
}

const std::vector<const CaseResult*>& Cases::of(const std::string& config) const {
  static const std::vector<const CaseResult*> none;
  const auto found = by_config_.find(config);
  return found == by_config_.end() ? none : found->second;
}

const CaseResult* Cases::find(const CaseResult& result, const std::string& config) const {
  const auto found = by_case_.find({result.key(), config});
  return found == by_case_.end() ? nullptr : found->second;
}

std::optional<double> follow_up_score(const CaseResult& result) {
  if (result.follow_ups.empty()) return {};
  double sum = 0;
  for (const FollowUp& follow_up : result.follow_ups) sum += *follow_up.score;
  return sum / static_cast<double>(result.follow_ups.size());
}

std::vector<int32_t> lengths_of(const EvalRun& run) {
  std::set<int32_t> lengths;
  for (const CaseResult& result : run.results) lengths.insert(result.length);
  return {lengths.begin(), lengths.end()};
}

std::vector<std::string> tasks_of(const EvalRun& run) {
  std::vector<std::string> tasks;
  for (const CaseResult& result : run.results) {
    if (result.score && std::find(tasks.begin(), tasks.end(), result.task) == tasks.end()) {
      tasks.push_back(result.task);
    }
  }
  return tasks;
}

}  // namespace tokensieve::eval::report
