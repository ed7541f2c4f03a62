// What a run writes, made from what it did. The members of each line: eval/schema.h.
#pragma once

#include <string>
#include <vector>

#include "eval/cases.h"
#include "eval/config.h"
#include "eval/results.h"
#include "eval/runner.h"
#include "eval/schema.h"

namespace tokensieve::eval {

struct EvalPlan {
  std::vector<std::string> tasks;
  std::vector<int32_t> lengths;
  int32_t cases = 0;
  uint64_t seed = 0;
  std::vector<Config> configs;

  std::vector<CaseId> case_ids() const { return eval::case_ids(tasks, lengths, cases); }
};

HeaderLine header_line(const EvalPlan& plan, const LlamaModel& model, const std::string& system);

// "eval-smollm2-1a2b3c4d.jsonl": the same name for the same run, so that the same command finds its
// file again.
std::string default_output(const char* command, const HeaderLine& header);

KeptTokens kept_line(const PreparedCase& input, const Config& config, const KeptByLayer& kept,
                     const LlamaModel& model);

// --write-cases: a case's tokens, and what a configuration runs on a prompt of so many.
Json case_line(const PreparedCase& input);
ResolvedLine resolved_line(const Config& config, int32_t tokens);

}  // namespace tokensieve::eval
