// Cases as JSON, for programs that run them elsewhere (a GPU, through Python).
#pragma once

#include <string>
#include <string_view>

#include "eval/case.h"

namespace tokensieve::cli::eval {

// One line without its end. Members are called as in case.h; empty ones are absent.
std::string case_to_json(const Case& item);
// Error: no JSON, or a member that is missing or of another type.
Result<Case> case_from_json(std::string_view json);

}  // namespace tokensieve::cli::eval
