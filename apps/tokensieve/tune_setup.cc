#include "tune_setup.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/profiles.h"
#include "eval/lines.h"
#include "eval/runner.h"

namespace tokensieve::cli {

using eval::Candidate;
using eval::Config;
using eval::dense_config;
using eval::EvalPlan;
using eval::HeaderLine;
using eval::Json;
using eval::parse_configs;
using eval::Runner;
using eval::ThinLayers;
using eval::TuneStep;

namespace {

Json select_json(const Config& rung) {
  return Json::parse(profile_to_json(rung.profile))["select"];
}

Result<std::vector<Config>> make_rungs(const TuneOptions& options, const LlamaModel& model) {
  std::vector<Config> rungs;
  Profile start = default_profile(model.fingerprint());
  start.model = model.source().name;
  start.products = options.products;
  const std::string ladder = options.quick && options.ladder == TuneOptions().ladder
                                 ? "keep=.2/.4" : options.ladder;
  Result<std::vector<Config>> configs =
      parse_configs({"forced:" + ladder}, start, options.ubatch);
  if (!configs.ok()) return configs.status();
  for (Config& config : configs.value()) {
    if (!config.method->selects()) continue;
    if (config.chunk != options.ubatch) {
      return Status::error(StatusCode::kInvalidArgument,
                           "--ladder %s: every prompt is read --ubatch tokens at a time; allowed: "
                           "local fill, and no chunk",
                           ladder.c_str());
    }
    if (!config.profile.layer_select.empty()) {
      return Status::error(StatusCode::kInvalidArgument,
                           "--ladder %s: the profile has a layer_select, but tune itself finds the "
                           "layers that may keep less",
                           ladder.c_str());
    }
    rungs.push_back(std::move(config));
  }
  return rungs;
}

}  // namespace

Result<TuneSetup> make_tune_setup(const TuneOptions& options, const LlamaModel& model) {
  TuneSetup setup{.lengths = options.lengths,
                  .cases = options.cases > 0 ? options.cases : options.quick ? 1 : 2,
                  .rungs = {},
                  .budget = std::stod(options.budget),
                  .layers = {}};
  const int32_t most = model.max_context() - Runner::kReserve;
  if (setup.lengths.empty()) setup.lengths = {std::min(options.quick ? 1024 : 4096, most)};
  std::sort(setup.lengths.begin(), setup.lengths.end());
  TOKENSIEVE_RETURN_IF_ERROR(check_ubatch(options.ubatch, model.max_context()));
  if (setup.lengths.back() > most) {
    return Status::error(StatusCode::kInvalidArgument,
                         "--lengths %d: allowed: up to %d, the model's context less %d for answers",
                         setup.lengths.back(), most, Runner::kReserve);
  }
  Result<std::vector<Config>> rungs = make_rungs(options, model);
  if (!rungs.ok()) return rungs.status();
  setup.rungs = std::move(rungs.value());
  return setup;
}

HeaderLine tune_header(const TuneOptions& options, const TuneSetup& setup, const LlamaModel& model,
                       const std::string& system) {
  EvalPlan plan{.tasks = kKlTasks,
                .lengths = setup.lengths,
                .cases = setup.cases,
                .seed = options.seed,
                .configs = setup.rungs};
  plan.configs.insert(plan.configs.begin(), dense_config(options.ubatch));
  HeaderLine header = header_line(plan, model, system);
  header.tune = {{"budget", setup.budget}, {"max_kl", options.max_kl}};
  return header;
}

TuneStep tune_line(const TuneSetup& setup, const Candidate& candidate, size_t step) {
  const Config& rung = setup.rungs[candidate.rung];
  TuneStep line{.step = static_cast<int32_t>(step),
                .layers = candidate.layers,
                .rung = rung.name,
                .select = select_json(rung),
                .work = candidate.effect.work,
                .kl = candidate.effect.kl,
                .loss = {},
                .thin = {}};
  if (!candidate.thin_layers.empty()) {
    const Config& thin = setup.rungs[candidate.thin_rung];
    line.thin = ThinLayers{candidate.thin_layers, thin.name, select_json(thin)};
  }
  return line;
}

std::string measurement_key(const TuneStep& line) {
  std::string key = line.rung + format_layers(line.layers);
  if (line.thin) key += line.thin->rung + format_layers(line.thin->layers);
  return key;
}

std::string describe(const TuneSetup& setup, const Candidate& candidate) {
  std::string text = fmt::format("{} on {}", setup.rungs[candidate.rung].name,
                                 format_layers(candidate.layers));
  if (!candidate.thin_layers.empty()) {
    text += fmt::format(", {} on {}", setup.rungs[candidate.thin_rung].name,
                        format_layers(candidate.thin_layers));
  }
  return text;
}

}  // namespace tokensieve::cli
