// A configuration in words, and what of it a sweep changes.
#pragma once

#include <optional>
#include <string>

#include "eval/report/run_file.h"

namespace tokensieve::eval::report {

struct Budget {
  std::string name;  // "tau", "keep_ratio" or "keep_count"
  double value = 0;
};

struct ProfileText {
  std::string family;  // "layers 2-29, local fill 512 + 4, one set per layer": all but the budget
  std::optional<Budget> budget;
  std::vector<int32_t> sparse_layers;
};

// Empty without a (readable) profile.
ProfileText describe(const Config& config);

}  // namespace tokensieve::eval::report
