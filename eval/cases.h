// Cases in a model's tokens.
#pragma once

#include <string>

#include "eval/runner.h"

namespace tokensieve::cli::eval {

// make_case, and the tokens of the prompt and of every later turn. Every follow-up is asked after
// the right answer to the case's own question, whatever was answered: the same for all
// configurations.
Result<PreparedCase> prepare_case(const LlamaModel& model, const std::string& system,
                                  const std::string& task, int32_t length, int32_t index,
                                  uint64_t seed);

// What a model that knows the answer goes on with after the prompt.
Tokens right_answer(const LlamaModel& model, const Question& question);

}  // namespace tokensieve::cli::eval
