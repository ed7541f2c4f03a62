// The lines of a results file. docs/evaluation.md, "File format".
#pragma once

#include <string>
#include <vector>

#include "eval/results.h"
#include "eval/runner.h"

namespace tokensieve::cli::eval {

struct EvalPlan {
  std::vector<std::string> tasks;
  std::vector<int32_t> lengths;
  int32_t cases = 0;
  uint64_t seed = 0;
  std::vector<Config> configs;
};

Json header_line(const EvalPlan& plan, const LlamaModel& model, const std::string& system);
// What decides which model runs: compared when a run goes on.
Json model_json(const LlamaModel& model, const std::string& system);

// "eval-smollm2-1a2b3c4d.jsonl": the same name for the same run, so that the same command finds its
// file again.
std::string default_output(const char* command, const Json& header);

// `dense`: what text is compared with, or null. `reused`: the configuration ran as dense, whose
// numbers these are.
Json result_line(const PreparedCase& input, const Config& config, const CaseRun& run,
                 const CaseRun* dense, bool reused);
Json kept_line(const PreparedCase& input, const Config& config, const KeptByLayer& kept,
               const LlamaModel& model);
// A case's tokens, for runs elsewhere (--write-cases).
Json case_line(const PreparedCase& input);

}  // namespace tokensieve::cli::eval
