#include "eval/lines.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <filesystem>
#include <fstream>

#include "common/system.h"
#include "eval/command_text.h"
#include "eval/equal_work.h"
#include "tokensieve/version.h"

namespace tokensieve::eval {
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

std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  return command_text(words);
}

ModelLine model_line(const LlamaModel& model, const std::string& system) {
  const cli::ResolvedModel& source = model.source();
  const ModelFingerprint f = model.fingerprint();
  std::error_code ignored;
  ModelLine line{.name = source.name,
                 .file = std::filesystem::path(source.gguf).filename().string(),
                 .bytes = static_cast<int64_t>(std::filesystem::file_size(source.gguf, ignored)),
                 .fingerprint = {{"architecture", f.architecture},
                                 {"num_layers", f.num_layers},
                                 {"num_q_heads", f.num_q_heads},
                                 {"num_kv_heads", f.num_kv_heads},
                                 {"head_dim", f.head_dim}},
                 .context = model.max_context(),
                 .system = system,
                 .lora = without_folder(source.options.lora),
                 .rope_scale = {}};
  if (source.options.rope_scale > 0) line.rope_scale = source.options.rope_scale;
  return line;
}

// [first, last] of every run of neighbours.
std::vector<std::pair<int32_t, int32_t>> ranges_of(const std::vector<int32_t>& tokens) {
  std::vector<std::pair<int32_t, int32_t>> ranges;
  for (const int32_t token : tokens) {
    if (ranges.empty() || ranges.back().second + 1 != token) ranges.emplace_back(token, token);
    ranges.back().second = token;
  }
  return ranges;
}

}  // namespace

HeaderLine header_line(const EvalPlan& plan, const LlamaModel& model, const std::string& system) {
  const int threads = model.source().options.threads;
  const std::string gpu = cli::describe_gpus();
  HeaderLine header{.tool = "tokensieve " TOKENSIEVE_VERSION_STRING,
                    .date = utc_now(),
                    .command = command_line(),
                    .machine = Machine{.cpu = cpu_name(),
                                       .threads = threads > 0 ? threads : cli::default_threads(),
                                       .gpu = gpu == "none" ? "" : gpu},
                    .model = model_line(model, system),
                    .seed = plan.seed,
                    .tasks = plan.tasks,
                    .lengths = plan.lengths,
                    .cases = plan.cases,
                    .configs = {},
                    .tune = {}};
  for (const Config& config : plan.configs) header.configs.push_back(config_line(config));
  return header;
}

std::string default_output(const char* command, const HeaderLine& header) {
  Json identity = to_json(header);
  for (const char* key : {"date", "machine", "tool", "command", "tune"}) identity.erase(key);
  return fmt::format("{}-{}-{:08x}.jsonl", command, header.model.name,
                     static_cast<uint32_t>(std::hash<std::string>()(identity.dump())));
}

KeptTokens kept_line(const PreparedCase& input, const Config& config, const KeptByLayer& kept,
                     const LlamaModel& model) {
  KeptTokens line;
  line.task = input.source.task;
  line.length = input.source.length;
  line.index = input.source.index;
  line.config = config.name;
  for (const llama_token token : input.prompt) line.tokens.push_back(model.piece(token));
  for (const auto& [layer, choice] : kept) {
    KeptLayer& item = line.layers.emplace_back();
    item.layer = layer;
    item.num_sets = static_cast<int32_t>(choice.sets.size());
    for (const auto& set : choice.sets) item.sets.push_back(ranges_of(set));
  }
  return line;
}

Json case_line(const PreparedCase& input) {
  const Case& c = input.source;
  Json line = {{"type", "case"},  {"task", c.task},     {"length", c.length},
               {"case", c.index}, {"filler", c.filler}};
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

ResolvedLine resolved_line(const Config& config, int32_t tokens) {
  ResolvedLine line{.config = config.name, .tokens = tokens, .work = {}, .profile = {}};
  if (!config.method->selects() || config.runs_as_dense(tokens)) return line;
  const Resolved resolved = resolve(config, tokens);
  line.always_sparse = config.always_sparse;
  line.dense_rows = static_cast<int32_t>(resolved.dense_rows);
  line.work = resolved.work;
  line.profile = Json::parse(profile_to_json(resolved.profile));
  return line;
}

}  // namespace tokensieve::eval
