#include "eval/report/run_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "common/files.h"
#include "eval/report/fields.h"

namespace tokensieve::cli::report {
namespace {

constexpr int32_t kFormat = 1;

void read_header(Fields line, EvalRun& run) {
  int32_t format = 0;
  line.require("format", format);
  if (line.ok() && format != kFormat) {
    line.fail(
        fmt::format("format {} is not one that this version reads; allowed: {} (run "
                    "`tokensieve eval` of this version again, or use the newer tokensieve)",
                    format, kFormat));
  }
  run.model = "unknown model";
  if (line.has("model")) {
    std::string error;
    Fields(line.at("model"), error).read("name", run.model);
    if (!error.empty()) line.fail(error);
  }
  std::vector<std::string> tasks;
  std::vector<int32_t> lengths;
  int32_t cases = 0;
  line.read("tasks", tasks);
  line.read("lengths", lengths);
  line.read("cases", cases);
  line.each("configs", [&](Fields fields) {
    Config config;
    fields.require("name", config.name);
    config.kind = config.name;
    fields.read("kind", config.kind);
    fields.read("mode", config.mode);
    fields.read("note", config.note);
    fields.read("gate", config.gated);
    config.profile = fields.at("profile");
    run.configs.push_back(std::move(config));
  });
  if (line.ok() && run.configs.empty()) line.fail("\"configs\" names no configuration");
  run.planned = static_cast<int64_t>(tasks.size() * lengths.size() * run.configs.size()) * cases;
}

// What all parts of a run have in common.
Json identity(Json header) {
  for (const char* key : {"date", "command", "tasks", "lengths"}) header.erase(key);
  return header;
}

// Adds the items of `more` that `list` does not have.
void unite(Json& list, const Json& more) {
  for (const Json& item : more) {
    if (std::find(list.begin(), list.end(), item) == list.end()) list.push_back(item);
  }
}

template <typename T>
void append(std::vector<T>& list, std::vector<T>& more) {
  std::move(more.begin(), more.end(), std::back_inserter(list));
}

// What a "result" and a "kept" line begin with.
template <typename Line>
void read_case(Fields& line, const EvalRun& run, Line& out) {
  line.require("task", out.task);
  line.require("length", out.length);
  line.require("case", out.index);
  line.require("config", out.config);
  const auto is_named = [&](const Config& config) { return config.name == out.config; };
  if (line.ok() && std::none_of(run.configs.begin(), run.configs.end(), is_named)) {
    line.fail("config \"" + out.config + "\" is not one of the header's");
  }
}

void read_measurements(Fields& line, CaseResult& result) {
  line.read("prefill_ms", result.prefill_ms);
  line.read("attention_ms", result.attention_ms);
  line.read("keep_ratio", result.keep_ratio);
  line.read("work", result.work);
  line.each("layers", [&](Fields fields) {
    LayerResult layer;
    fields.require("layer", layer.layer);
    fields.read("keep_ratio", layer.keep_ratio);
    fields.read("work", layer.work);
    fields.read("attention_ms", layer.attention_ms);
    fields.read("reason", layer.reason);
    result.layers.push_back(std::move(layer));
  });
}

void read_result(Fields line, EvalRun& run) {
  CaseResult result;
  read_case(line, run, result);
  std::optional<double> depth;
  line.read("depth", depth);
  if (depth && *depth >= 0) result.depth = std::min(*depth, 1.0);  // negative: no needle
  line.read("expected", result.expected);
  line.read("answer", result.answer);
  line.read("score", result.score);
  line.each("follow_ups", [&](Fields fields) {
    FollowUp follow_up;
    fields.read("question", follow_up.question);
    fields.read("answer", follow_up.answer);
    fields.require("score", follow_up.score);
    result.follow_ups.push_back(std::move(follow_up));
  });
  read_measurements(line, result);
  if (line.has("metrics") && line.ok()) {
    std::string error;
    Fields fields(line.at("metrics"), error);
    Metrics metrics;
    fields.require("kl", metrics.kl);
    fields.require("top1", metrics.top1);
    fields.require("nll", metrics.nll);
    fields.require("nll_dense", metrics.nll_dense);
    result.metrics = metrics;
    if (!error.empty()) line.fail("in \"metrics\", " + error);
  }
  run.results.push_back(std::move(result));
}

void read_kept(Fields line, EvalRun& run) {
  KeptTokens kept;
  read_case(line, run, kept);
  line.require("tokens", kept.tokens);
  const auto num_tokens = static_cast<int32_t>(kept.tokens.size());
  line.each("layers", [&](Fields fields) {
    KeptTokens::Layer layer;
    fields.require("layer", layer.layer);
    std::vector<std::vector<std::vector<int32_t>>> sets;
    fields.require("kept", sets);
    for (const auto& ranges : sets) {
      auto& set = layer.sets.emplace_back();
      for (const auto& range : ranges) {
        if (range.size() != 2 || range[0] > range[1] || range[1] >= num_tokens) {
          return fields.fail(
              fmt::format("layer {} keeps a range that is not [first, last] within the {} tokens",
                          layer.layer, num_tokens));
        }
        set.emplace_back(range[0], range[1]);
      }
    }
    if (!layer.sets.empty()) kept.layers.push_back(std::move(layer));
  });
  // A prompt that ran dense has nothing to inspect.
  if (!kept.layers.empty()) run.kept.push_back(std::move(kept));
}

void read_tune(Fields line, EvalRun& run) {
  TuneStep step;
  line.read("layers", step.layers);
  step.select = line.at("select");
  line.object("thin", [&](Fields thin) {
    thin.require("layers", step.thin_layers);
    step.thin_select = thin.at("select");
  });
  line.require("work", step.work);
  line.read("loss", step.loss);
  line.read("kl", step.kl);
  line.read("chosen", step.chosen);
  run.tune.push_back(std::move(step));
}

void read_line(const Json& json, bool first, EvalRun& run, std::string& error) {
  Fields line(json, error);
  std::string type;
  line.require("type", type);
  if (!error.empty()) return;
  if (first != (type == "run")) {
    return line.fail(first
                         ? "the first line is not the header of a run (\"type\":\"run\"); is this "
                           "a file that `tokensieve eval` wrote?"
                         : "a second header: two runs in one file; pass them as two files");
  }
  if (first) {
    run.header = json;
    return read_header(line, run);
  }
  if (type == "result") return read_result(line, run);
  if (type == "kept") return read_kept(line, run);
  if (type == "drift") return line.require("layers", run.drift);
  if (type == "tune") return read_tune(line, run);
}

// The later of two lines for the same case and configuration counts.
void drop_repeated(std::vector<CaseResult>& results) {
  std::set<std::pair<CaseResult::Key, std::string>> seen;
  std::vector<CaseResult> kept;
  for (auto result = results.rbegin(); result != results.rend(); ++result) {
    if (seen.emplace(result->key(), result->config).second) kept.push_back(std::move(*result));
  }
  std::reverse(kept.begin(), kept.end());
  results = std::move(kept);
}

}  // namespace

Result<EvalRun> parse_run(std::string_view text, const std::string& path) {
  EvalRun run;
  run.path = path;
  int line_number = 0;
  bool header = false;
  while (!text.empty()) {
    ++line_number;
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    const bool complete = end != std::string_view::npos;
    text.remove_prefix(complete ? end + 1 : text.size());
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded() && !complete && header) {
      run.torn.push_back(
          fmt::format("{}:{}: the last line is incomplete (an interrupted run?) and is left out",
                      path, line_number));
      break;
    }
    std::string error;
    if (json.is_discarded()) {
      error = "not JSON";
    } else {
      read_line(json, !header, run, error);
    }
    if (!error.empty()) {
      return Status::error(StatusCode::kDataError, "%s:%d: %s", path.c_str(), line_number,
                           error.c_str());
    }
    header = true;
  }
  if (!header) {
    return Status::error(StatusCode::kDataError, "%s: holds no run, only blank lines",
                         path.c_str());
  }
  drop_repeated(run.results);
  return run;
}

Result<EvalRun> read_run(const std::string& path) {
  const Result<std::string> text = read_text(path);
  if (!text.ok()) return text.status();
  return parse_run(*text, path == "-" ? "standard input" : path);
}

std::vector<EvalRun> join_parts(std::vector<EvalRun> parts) {
  std::vector<EvalRun> runs;
  for (EvalRun& part : parts) {
    const Json same = identity(part.header);
    const auto run = std::find_if(runs.begin(), runs.end(), [&](const EvalRun& other) {
      return identity(other.header) == same;
    });
    if (run == runs.end()) {
      runs.push_back(std::move(part));
      continue;
    }
    run->path += ", " + part.path;
    for (const char* key : {"tasks", "lengths"}) unite(run->header[key], part.header[key]);
    append(run->results, part.results);
    append(run->kept, part.kept);
    append(run->tune, part.tune);
    append(run->torn, part.torn);
    if (run->drift.empty()) run->drift = std::move(part.drift);
    drop_repeated(run->results);
    const size_t cells = run->header["tasks"].size() * run->header["lengths"].size();
    run->planned = static_cast<int64_t>(cells * run->configs.size()) *
                   run->header.value("cases", int64_t{0});
  }
  return runs;
}

std::vector<std::string> warnings_of(const EvalRun& run) {
  std::vector<std::string> warnings = run.torn;
  const bool is_search = run.results.empty() && !run.tune.empty();  // tune keeps no answers
  if (!is_search && std::ssize(run.results) < run.planned) {
    warnings.push_back(fmt::format(
        "{} is not finished: {} of {} results; configurations may not have answered the same cases",
        run.path, run.results.size(), run.planned));
  }
  return warnings;
}

}  // namespace tokensieve::cli::report
