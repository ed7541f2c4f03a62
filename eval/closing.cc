#include "eval/closing.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "eval/report/summary.h"
#include "common/terminal.h"

namespace tokensieve::eval {
namespace {

using Json = nlohmann::ordered_json;

void add(Json& json, const char* key, const std::optional<double>& value) {
  if (value.has_value()) json[key] = *value;
}

void add(Json& json, const char* key, const std::optional<Estimate>& value) {
  if (!value.has_value()) return;
  json[key] = {
      {"mean", value->mean}, {"low", value->low}, {"high", value->high}, {"count", value->count}};
}

Json config_summary(const report::ConfigSummary& c) {
  Json json = {{"config", c.config}, {"kind", c.kind}};
  add(json, "score", c.score);
  add(json, "loss", c.loss);
  add(json, "follow_up", c.follow_up);
  add(json, "follow_up_loss", c.follow_up_loss);
  add(json, "kl", c.kl);
  add(json, "top1", c.top1);
  add(json, "perplexity_ratio", c.perplexity_ratio);
  add(json, "work", c.work);
  add(json, "keep_ratio", c.keep_ratio);
  add(json, "prefill_ms", c.prefill_ms);
  add(json, "attention_ms", c.attention_ms);
  add(json, "speedup", c.speedup);
  return json;
}

}  // namespace

Result<std::string> closing_tables(const std::string& path, const std::vector<int32_t>& lengths) {
  const Result<report::EvalRun> run = report::read_run(path);
  if (!run.ok()) return run.status();
  std::string text;
  for (const int32_t length : lengths) {
    const bool measured = std::any_of(run->results.begin(), run->results.end(),
                                      [&](const auto& r) { return r.length == length; });
    if (!measured) continue;  // an interrupted run
    text += fmt::format("{} tokens\n{}\n", cli::format_count(length),
                        report::summary_table(report::summarize(*run, length)));
  }
  return text;
}

Result<std::string> closing_json(const std::string& path, const std::vector<int32_t>& lengths) {
  const Result<report::EvalRun> run = report::read_run(path);
  if (!run.ok()) return run.status();
  Json json = {{"file", path}, {"lengths", Json::array()}};
  for (const int32_t length : lengths) {
    const report::Summary summary = report::summarize(*run, length);
    Json configs = Json::array();
    for (const report::ConfigSummary& c : summary.configs) configs.push_back(config_summary(c));
    json["lengths"].push_back({{"length", length},
                               {"solved_cells", summary.solved_cells},
                               {"unsolved", summary.unsolved},
                               {"speed_reference", summary.speed_reference},
                               {"configs", std::move(configs)}});
  }
  return json.dump(2) + "\n";
}

}  // namespace tokensieve::eval
