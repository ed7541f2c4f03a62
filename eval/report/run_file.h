// What `tokensieve eval` and `tune` write, read back: docs/evaluation.md, "File format".
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "tokensieve/status.h"

namespace tokensieve::cli::report {

using Json = nlohmann::ordered_json;

struct Config {
  std::string name;
  std::string kind;  // "stock", "dense", "sparse" or a baseline
  std::string mode;  // "whole", "chunk"; empty: does not apply
  std::string note;
  bool gated = true;  // runs dense where dense is predicted to be faster
  Json profile;       // null: none
};

struct FollowUp {
  std::string question;
  std::string answer;
  double score = 0;
};

struct LayerResult {
  int32_t layer = 0;
  double keep_ratio = 1;
  double work = 1;
  double attention_ms = 0;
  std::string reason;  // why it ran dense
};

// Against dense, over the tokens that follow the text.
struct Metrics {
  double kl = 0;
  double top1 = 0;
  double nll = 0;
  double nll_dense = 0;
};

// One case, answered with one configuration. Absent numbers do not apply.
struct CaseResult {
  std::string task;
  int32_t length = 0;
  int32_t index = 0;
  std::string config;
  std::optional<double> depth;  // 0 to 1: where the needle stands
  std::vector<std::string> expected;
  std::string answer;
  std::optional<double> score;
  std::vector<FollowUp> follow_ups;
  std::optional<double> prefill_ms;
  std::optional<double> attention_ms;
  std::optional<double> keep_ratio;
  std::optional<double> work;
  std::vector<LayerResult> layers;
  std::optional<Metrics> metrics;

  // The same for every configuration that answered the case.
  using Key = std::tuple<std::string, int32_t, int32_t>;
  Key key() const { return {task, length, index}; }
};

// Which tokens of one prompt each layer kept.
struct KeptTokens {
  std::string task;
  int32_t length = 0;
  int32_t index = 0;
  std::string config;
  std::vector<std::string> tokens;
  struct Layer {
    int32_t layer = 0;
    // Per set: inclusive ranges of positions, ascending.
    std::vector<std::vector<std::pair<int32_t, int32_t>>> sets;
  };
  std::vector<Layer> layers;
};

struct TuneStep {
  std::vector<int32_t> layers;
  Json select;
  std::vector<int32_t> thin_layers;  // those of `layers` that keep less
  Json thin_select;
  double work = 1;
  double loss = 0;
  double kl = 0;
  bool chosen = false;
};

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

}  // namespace tokensieve::cli::report
