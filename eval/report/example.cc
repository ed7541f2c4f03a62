#include "eval/report/example.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "eval/random.h"
#include "eval/report/run_file.h"

namespace tokensieve::eval::report {
namespace {

constexpr int32_t kLayers = 30;
constexpr int32_t kCases = 4;
constexpr int32_t kLengths[] = {1024, 2048};
constexpr int32_t kAlwaysKept = 64;  // last tokens

struct Task {
  const char* name;
  double skill;  // share of the cases that dense answers
  bool needle;
};
constexpr Task kTasks[] = {{"single_needle", 0.99, true},      {"multi_key", 0.9, true},
                           {"multi_value", 0.85, true},        {"variable_tracking", 0.7, false},
                           {"qa", 0.8, false},                 {"common_words", 0.2, false},
                           {"text", 0, false}};

struct Example {
  const char* name;
  const char* kind;
  int32_t layers;  // sparse ones
  double keep;
  double damage;  // at 2048 tokens
  const char* budget = "keep_ratio";
  double value = 0.2;
};
constexpr Example kConfigs[] = {{"stock", "stock", 0, 1, 0},
                                {"dense", "dense", 0, 1, 0},
                                {"keep-0.1", "sparse", 28, 0.1, 0.06, "keep_ratio", 0.1},
                                {"keep-0.2", "sparse", 28, 0.2, 0.015},
                                {"keep-0.4", "sparse", 28, 0.4, 0.006, "keep_ratio", 0.4},
                                {"tau-0.005", "sparse", 15, 0.45, 0.03, "tau", 0.005},
                                {"tau-0.05", "sparse", 15, 0.2, 0.08, "tau", 0.05},
                                {"no-selection", "none", 28, 0.02, 0.45},
                                {"random", "random", 28, 0.2, 0.4},
                                {"recent-only", "recent", 28, 0.2, 0.5},
                                {"evict", "evict", 28, 0.2, 0.25}};

// Draws from 0 to 1.
class Draws {
 public:
  explicit Draws(const std::string& name) : random_(eval::mix_seed(1, name)) {}
  double next() { return random_.next32() / 4294967296.0; }
  double between(double least, double most) { return least + (most - least) * next(); }

 private:
  eval::Random random_;
};

double rounded(double value) { return std::round(1e5 * value) / 1e5; }

Json profile_of(const Example& config) {
  const bool tau = std::string_view(config.budget) == "tau";
  Json select = {{"budget", config.budget}, {config.budget, config.value}};
  if (tau) {
    select.update(Json{{"fill", "zero"}, {"share", "head"}});
  } else {
    select.update(
        Json{{"fill", "local"}, {"share", "layer"}, {"local_window", 512}, {"sinks", 4}});
  }
  Json layers = Json::array();
  for (int32_t l = kLayers - config.layers; l < kLayers; ++l) layers.push_back(l);
  return {{"tokensieve_profile", 1},
          {"model", "invented"},
          {"fingerprint", {{"architecture", "llama"}, {"num_layers", kLayers}}},
          {"sparse_layers", layers},
          {"min_tokens", 256},
          {"select", select}};
}

eval::HeaderLine header() {
  eval::HeaderLine header{.tool = "tokensieve report --example",
                          .date = "2026-11-24T13:00:00Z",
                          .command = "tokensieve report --example (invented numbers)",
                          .machine = eval::Machine{"an invented CPU", 2, ""},
                          .seed = 1,
                          .lengths = {std::begin(kLengths), std::end(kLengths)},
                          .cases = kCases,
                          .tune = {}};
  header.model.name = "invented";
  header.model.file = "invented.gguf";
  header.model.context = 8192;
  for (const Task& task : kTasks) header.tasks.emplace_back(task.name);
  for (const Example& config : kConfigs) {
    Config line{.name = config.name, .kind = config.kind, .profile = {}, .note = "invented"};
    if (config.layers > 0) {
      line.mode = "whole";
      line.profile = profile_of(config);
    }
    header.configs.push_back(std::move(line));
  }
  return header;
}

std::vector<LayerResult> layers_of(const Example& config, int32_t length, Draws& draws) {
  std::vector<LayerResult> layers;
  for (int32_t l = 0; l < kLayers; ++l) {
    LayerResult layer{.layer = l, .reason = "layer not in the profile"};
    if (l >= kLayers - config.layers) {
      const double wave = 1 + 0.6 * std::sin(l / 3.0);
      layer.keep_ratio = rounded(std::min(1.0, config.keep * draws.between(0.7, 1.3) * wave));
      layer.work = rounded(std::min(1.0, 0.6 * layer.keep_ratio + 512.0 / length));
      layer.reason.clear();
    }
    layer.attention_ms = rounded(layer.work * std::pow(length / 1024.0, 2) * 4);
    layers.push_back(std::move(layer));
  }
  return layers;
}

void add_measurements(const Example& config, Draws& draws, CaseResult& result) {
  std::vector<LayerResult> layers = layers_of(config, result.length, draws);
  double attention = 0, work = 0;
  for (const LayerResult& layer : layers) {
    attention += layer.attention_ms;
    work += layer.work / kLayers;
  }
  result.prefill_ms = rounded(result.length * 1.1 + attention);
  result.work = rounded(work);
  result.keep_ratio = config.keep;
  if (std::string_view(config.kind) == "stock") return;
  result.attention_ms = rounded(attention);
  result.layers = std::move(layers);
}

Metrics metrics_of(double damage, double luck, Draws& draws) {
  const double kl = damage * draws.between(0.7, 1.3);
  const double nll = 2.3 + 0.1 * luck;
  return {.tokens = 64,
          .kl = rounded(kl),
          .kl_max = rounded(8 * kl),
          .top1 = rounded(1 - std::min(0.9, 1.4 * kl)),
          .nll = rounded(nll + 0.6 * kl),
          .nll_dense = rounded(nll)};
}

CaseResult result_of(const Task& task, int32_t length, int32_t index, const Example& config) {
  const std::string name = task.name + std::to_string(length) + "/" + std::to_string(index);
  const double luck = Draws(name).next();  // the same for every configuration
  Draws draws(name + config.name);
  CaseResult result;
  result.task = task.name;
  result.length = length;
  result.index = index;
  result.config = config.name;
  result.filler = "fiction";
  result.prompt_tokens = length - index;
  add_measurements(config, draws, result);
  const double damage = config.damage * std::sqrt(length / 2048.0);
  if (task.skill == 0) {
    result.metrics = metrics_of(damage, luck, draws);
    return result;
  }
  const auto answers = [&](double harder) {
    return luck * (1 + harder) < task.skill && draws.next() >= damage;
  };
  const bool right = answers(0);
  result.expected = {"48213"};
  result.answer = right ? "48213" : "I do not know";
  result.score = right;
  result.generate_ms = 80.5;
  for (int32_t i = 0; i < 2; ++i) {
    const double score = draws.next() >= damage && answers(0.05);
    result.follow_ups.push_back({"And number " + std::to_string(i) + "?", {"7"}, "7", score});
  }
  if (task.needle) result.depth = rounded(std::fmod(index / 7.0, 1.0));
  return result;
}

std::vector<std::string> prompt_of(int32_t length) {
  const std::vector<std::string> prose = {" The",  " night", " was", " clear", " and",  " the",
                                          " dome", " stood", " open", ",",     " so",   " they",
                                          " read", " the",   " log",  " once", " more", "."};
  const std::vector<std::string> fact = {" The", " access", " code", " of",  " the",
                                         " dome", " is",    " 48",   "213", "."};
  std::vector<std::string> tokens;
  for (size_t i = 0; tokens.size() + fact.size() < static_cast<size_t>(length); ++i) {
    if (tokens.size() == static_cast<size_t>(length) / 2) {
      tokens.insert(tokens.end(), fact.begin(), fact.end());
    }
    tokens.push_back(prose[i % prose.size()]);
  }
  tokens.resize(static_cast<size_t>(length), ".");
  return tokens;
}

KeptTokens kept_of(int32_t length, const Example& config, int32_t sets) {
  KeptTokens kept;
  kept.task = "single_needle";
  kept.length = length;
  kept.config = config.name;
  kept.tokens = prompt_of(length);
  Draws draws(config.name + std::to_string(length));
  for (int32_t l = kLayers - config.layers; l < kLayers; ++l) {
    KeptLayer& layer = kept.layers.emplace_back();
    layer.layer = l;
    layer.num_sets = sets;
    for (int32_t set = 0; set < sets; ++set) {
      auto& ranges = layer.sets.emplace_back();
      ranges.emplace_back(0, 3);
      const bool finds_it = draws.next() < 0.8;
      for (int32_t first = 5; first + 7 < length - kAlwaysKept; first += 9) {
        const bool is_answer = first <= length / 2 + 7 && length / 2 + 7 < first + 9;
        if (draws.next() < config.keep || (finds_it && is_answer)) {
          ranges.emplace_back(first, first + 6 + 2 * is_answer);
        }
      }
      ranges.emplace_back(length - kAlwaysKept, length - 1);
    }
  }
  return kept;
}

eval::DriftLine drift() {
  eval::DriftLine line;
  for (int32_t l = 0; l < kLayers; ++l) {
    line.layers.push_back(
        rounded((1 + 2 * std::exp(-l / 3.0) + (l == kLayers - 1 ? 3 : 0.2 * std::cos(l))) / 38));
  }
  return line;
}

TuneStep step_of(int32_t step, Draws& draws) {
  TuneStep line{.step = step,
                .rung = "keep=.2",
                .select = {{"keep_ratio", 0.2}},
                .work = rounded(1 - 0.03 * step),
                .kl = rounded(0.001 * std::pow(step, 1.4) * draws.between(0.8, 1.2)),
                .loss = rounded(0.002 * step * draws.next()),
                .chosen = step == 15,
                .thin = {}};
  for (int32_t l = kLayers - 1 - step; l < kLayers; ++l) line.layers.push_back(l);
  if (step > 10) line.thin = eval::ThinLayers{{27, 28}, "keep=.1", {{"keep_ratio", 0.1}}};
  return line;
}

template <typename Line>
void add(const Line& line, std::string& text) {
  text += eval::to_json(line).dump() + "\n";
}

}  // namespace

std::string example_run() {
  std::string text;
  add(header(), text);
  for (const int32_t length : kLengths) {
    for (const Task& task : kTasks) {
      for (int32_t index = 0; index < kCases; ++index) {
        for (const Example& config : kConfigs) add(result_of(task, length, index, config), text);
      }
    }
    for (const Example& config : kConfigs) {
      if (std::string_view(config.name) == "keep-0.2") add(kept_of(length, config, 1), text);
      if (std::string_view(config.name) == "tau-0.005") add(kept_of(length, config, 9), text);
    }
  }
  add(drift(), text);
  Draws draws("tune");
  for (int32_t step = 0; step < 24; ++step) add(step_of(step, draws), text);
  return text;
}

}  // namespace tokensieve::eval::report
