#include "eval/lines.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <filesystem>
#include <fstream>

#include "common/system.h"
#include "tokensieve/version.h"

namespace tokensieve::cli::eval {
namespace {

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "";
}

// As typed, for the report.
std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string line;
  for (std::string word; std::getline(file, word, '\0');) {
    const bool plain = word.find_first_of(" \t'\"$&;|<>()*?\\") == std::string::npos;
    if (!line.empty()) line += ' ';
    line += plain ? word : fmt::format("'{}'", word);
  }
  return line;
}

// What names a case in every line about it.
Json case_names(const char* type, const Case& c) {
  return {{"type", type}, {"task", c.task}, {"length", c.length}, {"case", c.index}};
}

Json metrics_json(const Metrics& m) {
  return {{"tokens", m.tokens}, {"kl", m.kl},   {"kl_max", m.kl_max},
          {"top1", m.top1},     {"nll", m.nll}, {"nll_dense", m.nll_reference}};
}

Json layers_json(const std::vector<LayerStats>& layers) {
  Json list = Json::array();
  for (const LayerStats& l : layers) {
    Json item = {{"layer", l.layer},
                 {"keep_ratio", l.keep_ratio},
                 {"work", l.work},
                 {"attention_ms", l.attention_ms}};
    if (l.sparse_nodes == 0) item["reason"] = l.dense_reason;
    list.push_back(std::move(item));
  }
  return list;
}

// [first, last] of every run of neighbours.
Json ranges_json(const std::vector<int32_t>& tokens) {
  Json ranges = Json::array();
  for (size_t begin = 0; begin < tokens.size();) {
    size_t end = begin;
    while (end + 1 < tokens.size() && tokens[end + 1] == tokens[end] + 1) ++end;
    ranges.push_back({tokens[begin], tokens[end]});
    begin = end + 1;
  }
  return ranges;
}

}  // namespace

Json model_json(const LlamaModel& model, const std::string& system) {
  const ResolvedModel& source = model.source();
  const ModelFingerprint f = model.fingerprint();
  std::error_code ignored;
  Json json = {{"name", source.name},
               {"file", std::filesystem::path(source.gguf).filename().string()},
               {"bytes", std::filesystem::file_size(source.gguf, ignored)},
               {"fingerprint",
                {{"architecture", f.architecture},
                 {"num_layers", f.num_layers},
                 {"num_q_heads", f.num_q_heads},
                 {"num_kv_heads", f.num_kv_heads},
                 {"head_dim", f.head_dim}}},
               {"context", model.max_context()},
               {"system", system}};
  if (!source.options.lora.empty()) json["lora"] = source.options.lora;
  if (source.options.rope_scale > 0) json["rope_scale"] = source.options.rope_scale;
  return json;
}

Json header_line(const EvalPlan& plan, const LlamaModel& model, const std::string& system) {
  const int threads = model.source().options.threads;
  Json configs = Json::array();
  for (const Config& config : plan.configs) configs.push_back(config_json(config));
  std::string gpu = describe_gpus();
  if (gpu == "none") gpu.clear();
  return {{"type", "run"},
          {"format", 1},
          {"tool", "tokensieve " TOKENSIEVE_VERSION_STRING},
          {"date", utc_now()},
          {"command", command_line()},
          {"machine",
           {{"cpu", cpu_name()}, {"threads", threads > 0 ? threads : default_threads()},
            {"gpu", gpu}}},
          {"model", model_json(model, system)},
          {"seed", plan.seed},
          {"tasks", plan.tasks},
          {"lengths", plan.lengths},
          {"cases", plan.cases},
          {"configs", configs}};
}

std::string default_output(const char* command, const Json& header) {
  Json identity = header;
  for (const char* key : {"date", "machine", "tool", "command", "tune"}) identity.erase(key);
  return fmt::format("{}-{}-{:08x}.jsonl", command, header["model"]["name"].get<std::string>(),
                     static_cast<uint32_t>(std::hash<std::string>()(identity.dump())));
}

Json result_line(const PreparedCase& input, const Config& config, const CaseRun& run,
                 const CaseRun* dense, bool reused) {
  const Case& c = input.source;
  Json line = case_names("result", c);
  line["config"] = config.name;
  line["filler"] = c.filler;
  if (c.depth >= 0) line["depth"] = c.depth;
  line["prompt_tokens"] = input.prompt.size();
  if (!input.is_text()) {
    line["expected"] = c.question.expected;
    line["answer"] = run.answer;
    line["score"] = score(c.question, run.answer);
    Json follow_ups = Json::array();
    for (size_t i = 0; i < run.follow_ups.size(); ++i) {
      const Question& question = c.follow_ups[i];
      follow_ups.push_back({{"question", question.text},
                            {"expected", question.expected},
                            {"answer", run.follow_ups[i]},
                            {"score", score(question, run.follow_ups[i])}});
    }
    line["follow_ups"] = std::move(follow_ups);
  }
  line["prefill_ms"] = run.prefill_ms;
  line["attention_ms"] = run.attention_ms;
  if (!input.is_text()) line["generate_ms"] = run.generate_ms;
  if (config.kind != Kind::kStock) {
    line["keep_ratio"] = run.keep_ratio;
    line["work"] = run.work;
    line["layers"] = layers_json(run.layers);
  }
  if (input.is_text() && dense != nullptr) {
    line["metrics"] = metrics_json(compare(dense->predictions, run.predictions));
  }
  if (reused) line["reused"] = "dense";
  return line;
}

Json kept_line(const PreparedCase& input, const Config& config, const KeptByLayer& kept,
               const LlamaModel& model) {
  Json line = case_names("kept", input.source);
  line["config"] = config.name;
  Json tokens = Json::array();
  for (const llama_token token : input.prompt) tokens.push_back(model.piece(token));
  line["tokens"] = std::move(tokens);
  Json layers = Json::array();
  for (const auto& [layer, choice] : kept) {
    Json sets = Json::array();
    for (const auto& set : choice.sets) sets.push_back(ranges_json(set));
    layers.push_back({{"layer", layer}, {"sets", choice.sets.size()}, {"kept", std::move(sets)}});
  }
  line["layers"] = std::move(layers);
  return line;
}

Json case_line(const PreparedCase& input) {
  const Case& c = input.source;
  Json line = case_names("case", c);
  line["filler"] = c.filler;
  if (c.depth >= 0) line["depth"] = c.depth;
  line["prompt"] = input.prompt;
  if (input.is_text()) {
    line["continuation"] = input.continuation;
    return line;
  }
  line["expected"] = c.question.expected;
  line["answer_tokens"] = answer_tokens(c.task);
  Json follow_ups = Json::array();
  for (size_t i = 0; i < input.turns.size(); ++i) {
    follow_ups.push_back({{"question", c.follow_ups[i].text},
                          {"expected", c.follow_ups[i].expected},
                          {"tokens", input.turns[i]}});
  }
  line["follow_ups"] = std::move(follow_ups);
  return line;
}

}  // namespace tokensieve::cli::eval
