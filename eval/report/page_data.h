// Everything that the page draws, as one JSON value: page/*.js computes no statistics.
#pragma once

#include <vector>

#include "eval/report/run_file.h"

namespace tokensieve::eval::report {

Json page_data(const std::vector<EvalRun>& runs);

}  // namespace tokensieve::eval::report
