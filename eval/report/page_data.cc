#include "eval/report/page_data.h"

#include <algorithm>
#include <map>

#include "eval/report/cases.h"
#include "eval/report/needles.h"
#include "eval/report/page_json.h"
#include "eval/report/profile_text.h"
#include "eval/report/summary.h"

namespace tokensieve::eval::report {
namespace {

Json summary_json(const Summary& summary) {
  Json configs = Json::array();
  for (const ConfigSummary& c : summary.configs) {
    configs.push_back({{"config", c.config},
                       {"score", number(c.score)},
                       {"loss", number(c.loss)},
                       {"broken", number(c.broken)},
                       {"broken_cases", c.broken_cases},
                       {"repaired_cases", c.repaired_cases},
                       {"follow_up", number(c.follow_up)},
                       {"follow_up_loss", number(c.follow_up_loss)},
                       {"kl", number(c.kl)},
                       {"top1", number(c.top1)},
                       {"perplexity_ratio", number(c.perplexity_ratio)},
                       {"work", number(c.work)},
                       {"block_density", number(c.block_density)},
                       {"keep_ratio", number(c.keep_ratio)},
                       {"prefill_ms", number(c.prefill_ms)},
                       {"attention_ms", number(c.attention_ms)},
                       {"speedup", number(c.speedup)}});
  }
  return {{"configs", configs},
          {"speed_reference", summary.speed_reference},
          {"solved", summary.solved_cells},
          {"unsolved", summary.unsolved}};
}

Json configs_json(const EvalRun& run) {
  Json configs = Json::array();
  for (const Config& config : run.configs) {
    const ProfileText text = describe(config);
    Json json = {{"name", config.name},   {"kind", config.kind},
                 {"mode", config.mode},   {"note", config.note},
                 {"family", text.family}, {"sparse_layers", text.sparse_layers}};
    if (text.budget) json["budget"] = {{"name", text.budget->name}, {"value", text.budget->value}};
    configs.push_back(std::move(json));
  }
  return configs;
}

// Score of every task, length and configuration, with dense's verdict.
Json tasks_json(const EvalRun& run, const std::vector<int32_t>& lengths) {
  Json rows = Json::array();
  for (const std::string& task : tasks_of(run)) {
    for (const int32_t length : lengths) {
      const Cases cases(run, length);
      Json scores = Json::object();
      double dense = -1;
      for (const Config& config : run.configs) {
        std::vector<double> values;
        for (const CaseResult* result : cases.of(config.name)) {
          if (result->task == task && result->score) values.push_back(*result->score);
        }
        if (values.empty()) continue;
        if (config.name == cases.dense()) dense = eval::mean(values);
        scores[config.name] = mean_json(values);
      }
      if (scores.empty()) continue;
      // Without dense nobody can say what is lost.
      rows.push_back({{"task", task},
                      {"length", length},
                      {"counts", dense >= eval::kSolvedMean},
                      {"scores", std::move(scores)}});
    }
  }
  return rows;
}

// Means per layer. A layer that a configuration never reported is absent.
Json layers_json(const Cases& cases, const EvalRun& run) {
  Json list = Json::array();
  for (const Config& config : run.configs) {
    struct Sums {
      std::vector<double> keep_ratio, work, attention_ms, block_density;
      std::string reason;
    };
    std::map<int32_t, Sums> layers;
    for (const CaseResult* result : cases.of(config.name)) {
      for (const LayerResult& layer : result->layers) {
        Sums& sums = layers[layer.layer];
        sums.keep_ratio.push_back(layer.keep_ratio);
        sums.work.push_back(layer.work);
        sums.attention_ms.push_back(layer.attention_ms);
        sums.block_density.push_back(layer.block_density.value_or(1));
        sums.reason = layer.reason;
      }
    }
    if (layers.empty()) continue;
    Json means = Json::array();
    for (const auto& [layer, sums] : layers) {
      means.push_back({{"layer", layer},
                       {"keep_ratio", number(eval::mean(sums.keep_ratio))},
                       {"work", number(eval::mean(sums.work))},
                       {"attention_ms", number(eval::mean(sums.attention_ms))},
                       {"block_density", number(eval::mean(sums.block_density))},
                       {"reason", sums.reason}});
    }
    list.push_back({{"config", config.name}, {"layers", std::move(means)}});
  }
  return list;
}

Json tune_json(const EvalRun& run) {
  Json list = Json::array();
  for (const TuneStep& step : run.tune) {
    Json json = {{"layers", step.layers},     {"select", step.select},
                 {"work", number(step.work)}, {"loss", number(step.loss.value_or(0))},
                 {"kl", number(step.kl)},     {"chosen", step.chosen}};
    if (step.thin) {
      json["thin"] = {{"layers", step.thin->layers}, {"select", step.thin->select}};
    }
    list.push_back(std::move(json));
  }
  return list;
}

Json kept_layers_json(const KeptTokens& kept) {
  Json layers = Json::array();
  for (const KeptLayer& layer : kept.layers) {
    Json sets = Json::array();
    for (const auto& ranges : layer.sets) {
      Json set = Json::array();  // first, last, first, last, ...: half the brackets
      for (const auto& [first, last] : ranges) {
        set.push_back(first);
        set.push_back(last);
      }
      sets.push_back(std::move(set));
    }
    layers.push_back({{"layer", layer.layer}, {"sets", std::move(sets)}});
  }
  return layers;
}

// Prompts of the inspector, each with what every configuration kept of it.
Json prompts_json(const EvalRun& run) {
  const Cases cases(run);
  Json prompts = Json::array();
  std::vector<const KeptTokens*> first;  // the line that each prompt's text comes from
  for (const KeptTokens& kept : run.kept) {
    const auto same = [&](const KeptTokens* other) {
      return std::tie(other->task, other->length, other->index, other->tokens) ==
             std::tie(kept.task, kept.length, kept.index, kept.tokens);
    };
    const auto found = std::find_if(first.begin(), first.end(), same);
    const auto position = static_cast<size_t>(found - first.begin());
    CaseResult key;
    std::tie(key.task, key.length, key.index) = std::tie(kept.task, kept.length, kept.index);
    const CaseResult* result = cases.find(key, kept.config);
    if (found == first.end()) {
      first.push_back(&kept);
      prompts.push_back({{"task", kept.task},
                         {"length", kept.length},
                         {"case", kept.index},
                         {"tokens", kept.tokens},
                         {"expected", result ? result->expected : std::vector<std::string>()},
                         {"kept", Json::array()}});
    }
    Json json = {{"config", kept.config}, {"layers", kept_layers_json(kept)}};
    if (result != nullptr) {
      json["answer"] = result->answer;
      if (result->score) json["score"] = number(100 * *result->score);
    }
    prompts[position]["kept"].push_back(std::move(json));
  }
  return prompts;
}

Json run_json(const EvalRun& run) {
  const std::vector<int32_t> lengths = lengths_of(run);
  Json summaries = {{"all", summary_json(summarize(run))}};
  Json layers = {{"all", layers_json(Cases(run), run)}};
  for (const int32_t length : lengths) {
    const std::string name = std::to_string(length);
    summaries[name] = summary_json(summarize(run, length));
    layers[name] = layers_json(Cases(run, length), run);
  }
  Json facts = run.header;
  facts.erase("configs");  // in configs_json, described
  return {{"file", run.path},
          {"model", run.model},
          {"header", std::move(facts)},
          {"warnings", warnings_of(run)},
          {"results", run.results.size()},
          {"dense", Cases(run).dense()},
          {"configs", configs_json(run)},
          {"lengths", lengths},
          {"summaries", std::move(summaries)},
          {"tasks", tasks_json(run, lengths)},
          {"needles", needles_json(run)},
          {"layers", std::move(layers)},
          {"drift", run.drift},
          {"tune", tune_json(run)},
          {"prompts", prompts_json(run)}};
}

}  // namespace

Json page_data(const std::vector<EvalRun>& runs) {
  Json list = Json::array();
  for (const EvalRun& run : runs) list.push_back(run_json(run));
  return {{"runs", std::move(list)}};
}

}  // namespace tokensieve::eval::report
