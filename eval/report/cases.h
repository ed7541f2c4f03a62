// The results of a run, looked up by case and configuration.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "eval/report/run_file.h"

namespace tokensieve::eval::report {

// A task at a length: what dense solves, or does not.
using Cell = std::pair<std::string, int32_t>;

class Cases {
 public:
  // Keeps pointers into `run`. `length` 0: all lengths.
  explicit Cases(const EvalRun& run, int32_t length = 0);

  // In file order; empty for an unknown configuration.
  const std::vector<const CaseResult*>& of(const std::string& config) const;
  // The same case, answered with another configuration; null if that is missing.
  const CaseResult* find(const CaseResult& result, const std::string& config) const;
  // The configuration that answers are compared with: the "dense" one, else "stock"; or empty.
  const std::string& dense() const { return dense_; }
  // What times are compared with: "stock", else "dense"; or empty.
  const std::string& speed_reference() const { return speed_reference_; }

 private:
  std::map<std::string, std::vector<const CaseResult*>> by_config_;
  std::map<std::pair<CaseResult::Key, std::string>, const CaseResult*> by_case_;
  std::string dense_;
  std::string speed_reference_;
};

// Mean score of the follow-up questions, if there are any.
std::optional<double> follow_up_score(const CaseResult& result);

std::vector<int32_t> lengths_of(const EvalRun& run);    // ascending
std::vector<std::string> tasks_of(const EvalRun& run);  // scored ones, in file order

}  // namespace tokensieve::eval::report
