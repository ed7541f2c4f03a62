// Cases in a model's tokens.
#pragma once

#include <string>
#include <vector>

#include "eval/runner.h"

namespace tokensieve::eval {

// What names a case of a run.
struct CaseId {
  std::string task;
  int32_t length = 0;
  int32_t index = 0;
};
// In the order in which they run: an interrupted run has few cases of every cell.
std::vector<CaseId> case_ids(const std::vector<std::string>& tasks,
                             const std::vector<int32_t>& lengths, int32_t cases);

// make_case, and the tokens of the prompt and of every later turn. Every follow-up is asked after
// the right answer to the case's own question, whatever was answered: the same for all
// configurations.
Result<PreparedCase> prepare_case(const LlamaModel& model, const std::string& system,
                                  const CaseId& id, uint64_t seed);

// What a model that knows the answer goes on with after the prompt.
Tokens right_answer(const LlamaModel& model, const Question& question);

}  // namespace tokensieve::eval
