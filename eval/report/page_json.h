// Numbers as the page's JSON holds them.
#pragma once

#include <optional>
#include <vector>

#include "eval/statistics.h"
#include "eval/report/run_file.h"

namespace tokensieve::eval::report {

// Six digits; null for what JSON cannot hold or nobody measured.
Json number(double value);
Json number(const std::optional<double>& value);
Json number(const std::optional<eval::Estimate>& estimate);

// Scores from 0 to 1 -> their mean in points, and how many there are.
Json mean_json(const std::vector<double>& scores);

}  // namespace tokensieve::eval::report
