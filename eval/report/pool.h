// Runs of several seeds as one: the same model, other prompts.
#pragma once

#include <string>
#include <vector>

#include "eval/report/run_file.h"

namespace tokensieve::eval::report {

// Error: the models differ.
Result<EvalRun> pool(std::vector<EvalRun> runs);

// Every length and all together: points lost, follow-ups lost (of all cells: dense answers nearly
// all of them), KL, each with its interval and number of cases, and work.
std::string pooled_table(const EvalRun& run);

}  // namespace tokensieve::eval::report
