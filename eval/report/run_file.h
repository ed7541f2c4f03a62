// Run files, read back: eval/schema.h says what one line holds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/schema.h"
#include "tokensieve/status.h"

namespace tokensieve::eval::report {

using Config = eval::ConfigLine;

struct EvalRun {
  std::string path;
  Json header;
  std::string model;
  std::vector<Config> configs;
  std::vector<CaseResult> results;
  int64_t planned = 0;  // results that the header announces; 0: it does not say
  std::vector<KeptTokens> kept;
  std::vector<double> drift;
  std::vector<TuneStep> tune;
  std::vector<std::string> torn;  // which last lines were incomplete and are left out
};

// `path` names the file in errors: "path:line: what is wrong". Line breaks end lines; unknown
// types and keys are skipped. An incomplete last line (an interrupted run) is only a warning.
Result<EvalRun> parse_run(std::string_view text, const std::string& path);
Result<EvalRun> read_run(const std::string& path);

// Files whose headers differ in date, command, tasks and lengths only are parts of one run, made by
// several processes: they become one.
std::vector<EvalRun> join_parts(std::vector<EvalRun> parts);

// What a reader should know: torn last lines, cases that are still to run.
std::vector<std::string> warnings_of(const EvalRun& run);

}  // namespace tokensieve::eval::report
