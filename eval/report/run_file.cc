#include "eval/report/run_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "common/files.h"
#include "core/json_fields.h"
#include "eval/case.h"

namespace tokensieve::eval::report {
namespace {

Status check_format(const Json& json, const std::string& where) {
  if (!json.contains("format") || json["format"] == eval::kFormat) return {};
  return Status::error(StatusCode::kDataError,
                       "%s: format %s is not one that this version reads; allowed: %d (run "
                       "`tokensieve eval` of this version again, or use the newer tokensieve)",
                       where.c_str(), JsonFields::sample(json["format"]).c_str(), eval::kFormat);
}

Status read_header(const Json& json, const std::string& where, EvalRun& run) {
  TOKENSIEVE_RETURN_IF_ERROR(check_format(json, where));
  eval::HeaderLine header;
  TOKENSIEVE_RETURN_IF_ERROR(eval::read_line(json, where, header));
  if (header.configs.empty()) {
    return Status::error(StatusCode::kDataError, "%s: configs names no configuration",
                         where.c_str());
  }
  run.header = json;
  run.model = header.model.name;
  run.configs = std::move(header.configs);
  for (Config& config : run.configs) {
    if (config.kind.empty()) config.kind = config.name;
  }
  const size_t cells = header.tasks.size() * header.lengths.size();
  run.planned = static_cast<int64_t>(cells * run.configs.size()) * header.cases;
  return {};
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

// Reads a "result" or a "kept" line.
template <typename Line>
Status read_case(const Json& json, const std::string& where, const EvalRun& run, Line& line) {
  TOKENSIEVE_RETURN_IF_ERROR(eval::read_line(json, where, line));
  const auto is_named = [&](const Config& config) { return config.name == line.config; };
  if (std::any_of(run.configs.begin(), run.configs.end(), is_named)) return {};
  return Status::error(StatusCode::kDataError, "%s: config \"%s\" is not one of the header's",
                       where.c_str(), line.config.substr(0, 100).c_str());
}

// Engines other than ours write answers and leave their scores to whoever reads them.
std::optional<double> score_of(const std::optional<double>& score,
                               const std::vector<std::string>& expected,
                               const std::string& answer) {
  if (score || expected.empty()) return score;
  return eval::score({.text = "", .answer_prefix = "", .expected = expected}, answer);
}

Status read_result(const Json& json, const std::string& where, EvalRun& run) {
  CaseResult result;
  TOKENSIEVE_RETURN_IF_ERROR(read_case(json, where, run, result));
  result.score = score_of(result.score, result.expected, result.answer);
  for (FollowUp& turn : result.follow_ups) {
    turn.score = score_of(turn.score, turn.expected, turn.answer);
    if (turn.score) continue;
    return Status::error(StatusCode::kDataError,
                         "%s: a follow-up has neither \"score\" nor \"expected\"", where.c_str());
  }
  if (result.depth && *result.depth < 0) result.depth.reset();  // no needle
  if (result.depth) result.depth = std::min(*result.depth, 1.0);
  run.results.push_back(std::move(result));
  return {};
}

Status read_kept(const Json& json, const std::string& where, EvalRun& run) {
  KeptTokens kept;
  TOKENSIEVE_RETURN_IF_ERROR(read_case(json, where, run, kept));
  const auto num_tokens = static_cast<int32_t>(kept.tokens.size());
  for (const KeptLayer& layer : kept.layers) {
    for (const auto& set : layer.sets) {
      for (const auto& [first, last] : set) {
        if (first <= last && last < num_tokens) continue;
        return Status::error(StatusCode::kDataError,
                             "%s: layer %d keeps [%d, %d]; allowed: [first, last] within the %d "
                             "tokens",
                             where.c_str(), layer.layer, first, last, num_tokens);
      }
    }
  }
  std::erase_if(kept.layers, [](const KeptLayer& layer) { return layer.sets.empty(); });
  // A prompt that ran dense has nothing to inspect.
  if (!kept.layers.empty()) run.kept.push_back(std::move(kept));
  return {};
}

Status read_line(const Json& json, const std::string& where, bool first, EvalRun& run) {
  JsonFields fields(json, where);
  std::string type;
  fields.require({"type"});
  fields.read("type", type);
  TOKENSIEVE_RETURN_IF_ERROR(fields.status());
  if (first != (type == "run")) {
    return Status::error(
        StatusCode::kDataError, "%s: %s", where.c_str(),
        first ? "the first line is not the header of a run (\"type\":\"run\"); is this a file that "
                "`tokensieve eval` wrote?"
              : "a second header: two runs in one file; pass them as two files");
  }
  if (first) return read_header(json, where, run);
  if (type == CaseResult::kType) return read_result(json, where, run);
  if (type == KeptTokens::kType) return read_kept(json, where, run);
  if (type == TuneStep::kType) return eval::read_line(json, where, run.tune.emplace_back());
  if (type != eval::DriftLine::kType) return {};
  eval::DriftLine drift;
  TOKENSIEVE_RETURN_IF_ERROR(eval::read_line(json, where, drift));
  run.drift = std::move(drift.layers);
  return {};
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
    const std::string where = fmt::format("{}:{}", path, line_number);
    const Result<Json> json = parse_json(line, where);
    if (!json.ok() && !complete && header && !Json::accept(line)) {
      run.torn.push_back(where +
                         ": the last line is incomplete (an interrupted run?) and is left out");
      break;
    }
    TOKENSIEVE_RETURN_IF_ERROR(json.status());
    TOKENSIEVE_RETURN_IF_ERROR(read_line(*json, where, !header, run));
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
  const Result<std::string> text = cli::read_text(path);
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
  std::set<std::pair<std::string, std::string>> others;  // what ran, with why it was not as asked
  for (const CaseResult& result : run.results) {
    if (result.products.ends_with(')')) others.emplace(result.config, result.products);
  }
  for (const auto& [config, products] : others) {
    warnings.push_back(fmt::format("{}: {} ran with other products than asked for: {}", run.path,
                                   config, products));
  }
  return warnings;
}

}  // namespace tokensieve::eval::report
