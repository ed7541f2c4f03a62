// The needle heat map: mean score by length, and by where in the document the needle stands.
#pragma once

#include "eval/report/run_file.h"

namespace tokensieve::eval::report {

Json needles_json(const EvalRun& run);

}  // namespace tokensieve::eval::report
