#include "tune_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/command.h"
#include "eval/cases.h"
#include "eval/lines.h"
#include "eval/statistics.h"
#include "eval/tune_search.h"
#include "common/files.h"
#include "common/profiles.h"
#include "common/session.h"
#include "common/sparse_layers.h"
#include "common/terminal.h"

namespace tokensieve::cli {
namespace {

using eval::Candidate;
using eval::Case;
using eval::case_ids;
using eval::CaseId;
using eval::CaseResult;
using eval::CaseRun;
using eval::Config;
using eval::default_output;
using eval::dense_config;
using eval::EvalPlan;
using eval::HeaderLine;
using eval::Json;
using eval::Loss;
using eval::PairedScore;
using eval::parse_configs;
using eval::Predictions;
using eval::prepare_case;
using eval::PreparedCase;
using eval::result_key;
using eval::ResultsFile;
using eval::Runner;
using eval::ThinLayers;
using eval::TuneOutcome;
using eval::TuneProblem;
using eval::TuneStep;

// Damage is measured on text, and on the right answers of tasks from one fact to several hops.
const std::vector<std::string> kKlTasks = {"text", "multi_key", "variable_tracking"};
// A candidate is then checked on answers that it really gives.
const std::vector<std::string> kAnswerTasks = {"single_needle", "multi_key", "multi_value", "qa"};

struct Setup {
  std::vector<int32_t> lengths;
  int32_t cases;
  std::vector<Config> rungs;
  double budget;  // points
  SparseLayers layers;
};

Json select_json(const Config& rung) {
  return Json::parse(profile_to_json(rung.profile))["select"];
}

// What was measured, under names by which a later call finds it.
TuneStep tune_line(const Setup& setup, const Candidate& candidate, size_t step) {
  const Config& rung = setup.rungs[candidate.rung];
  TuneStep line{.step = static_cast<int32_t>(step),
                .layers = candidate.layers,
                .rung = rung.name,
                .select = select_json(rung),
                .work = candidate.work,
                .kl = candidate.kl,
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

std::string describe(const Setup& setup, const Candidate& candidate) {
  std::string text = fmt::format("{} on {}", setup.rungs[candidate.rung].name,
                                 format_layers(candidate.layers));
  if (!candidate.thin_layers.empty()) {
    text += fmt::format(", {} on {}", setup.rungs[candidate.thin_rung].name,
                        format_layers(candidate.thin_layers));
  }
  return text;
}

class Tuner {
 public:
  Tuner(const TuneOptions& options, const Setup& setup, const LlamaModel& model, Plugin& plugin,
        ResultsFile& file, const std::string& system)
      : options_(options),
        setup_(setup),
        model_(model),
        file_(file),
        system_(system),
        reference_(dense_config(options.ubatch)),
        runner_(model, plugin, setup.lengths.back(), setup.rungs) {
    for (const Json& line : file.earlier()) {
      TuneStep step;
      if (line["type"] != TuneStep::kType || !read_line(line, "", step).ok()) continue;
      if (!step.rung.empty()) known_[measurement_key(step)] = step.kl;
    }
  }

  Result<TuneOutcome> find_candidates() {
    TuneProblem problem{.layers = setup_.layers.layers,
                        .num_layers = setup_.layers.with_attention,
                        .rungs = setup_.rungs.size(),
                        .base_rung = setup_.rungs.size() / 2,
                        .max_kl = options_.max_kl,
                        .measure = {},
                        .layer_work = [&](size_t rung) { return layer_work(rung); }};
    const int32_t most = most_measurements(problem);
    Progress progress("tune", most, "measurements");
    problem.measure = [&](const Candidate& candidate) {
      progress.set_detail(describe(setup_, candidate));
      const Result<double> kl = measure(candidate, [&](double fraction) {
        progress.update((step_ + fraction) / most);
      });
      ++step_;
      return kl;
    };
    Result<TuneOutcome> outcome = search(problem);
    if (outcome.ok()) progress.finish();
    return outcome;
  }

  // Mean points that the candidate loses on tasks that dense solves, follow-ups included.
  Result<Loss> answer_loss(const Candidate& candidate) {
    const Config config = config_of(candidate);
    std::vector<PairedScore> scores;
    const std::vector<CaseId> ids = case_ids(kAnswerTasks, setup_.lengths, setup_.cases);
    Progress progress("checking answers", std::ssize(ids), "cases");
    int32_t done = 0;
    for (CaseId id : ids) {
      id.index += kAnswerIndex;
      const Result<PreparedCase> input = prepare(id);
      if (!input.ok()) return input.status();
      const Result<const CaseResult*> reference = dense_answer(*input);
      if (!reference.ok()) return reference.status();
      const Result<CaseRun> run = runner_.run(*input, config, {.on_progress = {}});
      if (!run.ok()) return run.status();
      add_scores(**reference, run->result, scores);
      progress.update(static_cast<double>(++done) / static_cast<double>(ids.size()));
    }
    progress.finish();
    return loss_where_dense_solves(scores);
  }

  Profile profile_of(const Candidate& candidate) const {
    Profile profile = config_of(candidate).profile;
    profile.model = model_.source().name;
    profile.min_tokens = setup_.lengths.front() * 95 / 100;  // the shortest measured prompt
    return profile;
  }

 private:
  static constexpr int32_t kAnswerIndex = 1000;  // other cases than those that were searched with

  Result<PreparedCase> prepare(const CaseId& id) const {
    return prepare_case(model_, system_, id, options_.seed);
  }

  Config config_of(const Candidate& candidate) const {
    Config config = setup_.rungs[candidate.rung];
    config.profile.sparse_layers = candidate.layers;
    if (!candidate.thin_layers.empty()) {
      config.profile.layer_select = {
          {candidate.thin_layers, setup_.rungs[candidate.thin_rung].profile.select}};
    }
    return config;
  }

  double layer_work(size_t rung) const {
    return eval::layer_work(model_.fingerprint(), setup_.rungs[rung].profile.select,
                            setup_.lengths.back(), setup_.rungs[rung].chunk);
  }

  Result<double> measure(Candidate candidate, const std::function<void(double)>& on_progress) {
    const std::string key = measurement_key(tune_line(setup_, candidate, 0));
    if (const auto found = known_.find(key); found != known_.end()) return found->second;
    if (prompts_.empty()) TOKENSIEVE_RETURN_IF_ERROR(prepare_prompts());
    const Config config = config_of(candidate);
    std::map<std::string, std::pair<double, int>> by_task;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      const Result<CaseRun> run = runner_.run(
          prompts_[i], config, {.on_progress = [&](double fraction) {
            on_progress((static_cast<double>(i) + fraction) / static_cast<double>(prompts_.size()));
          }});
      if (!run.ok()) return run.status();
      auto& [sum, count] = by_task[prompts_[i].source.task];
      sum += compare(dense_[i], run->predictions).kl;
      ++count;
    }
    // Tasks count alike. The worst of them would follow one prompt's noise.
    double kl = 0;
    for (const auto& [task, sum] : by_task) kl += sum.first / sum.second;
    kl /= static_cast<double>(by_task.size());
    known_[key] = candidate.kl = kl;
    TOKENSIEVE_RETURN_IF_ERROR(
        file_.append(to_json(tune_line(setup_, candidate, known_.size()))));
    return kl;
  }

  // The prompts and what dense predicts for the text or the right answer that follows.
  Status prepare_prompts() {
    for (const CaseId& id : case_ids(kKlTasks, setup_.lengths, setup_.cases)) {
      Result<PreparedCase> made = prepare(id);
      if (!made.ok()) return made.status();
      PreparedCase& input = made.value();
      if (!input.is_text()) input.continuation = right_answer(model_, input.source.question);
      const Result<CaseRun> run = runner_.run(input, reference_, {.on_progress = {}});
      if (!run.ok()) return run.status();
      dense_.push_back(run->predictions);
      prompts_.push_back(std::move(input));
    }
    return {};
  }

  Result<const CaseResult*> dense_answer(const PreparedCase& input) {
    const Case& c = input.source;
    const std::string key = result_key(c.task, c.length, c.index, "dense");
    if (const auto found = answers_.find(key); found != answers_.end()) return &found->second;
    Result<CaseRun> run = runner_.run(input, reference_, {.on_progress = {}});
    if (!run.ok()) return run.status();
    return &answers_.emplace(key, std::move(run.value().result)).first->second;
  }

  static void add_scores(const CaseResult& dense, const CaseResult& other,
                         std::vector<PairedScore>& scores) {
    scores.push_back({dense.task, dense.length, *dense.score, *other.score});
    for (size_t i = 0; i < dense.follow_ups.size(); ++i) {
      scores.push_back({dense.task + " follow-up", dense.length, *dense.follow_ups[i].score,
                        *other.follow_ups[i].score});
    }
  }

  const TuneOptions& options_;
  const Setup& setup_;
  const LlamaModel& model_;
  ResultsFile& file_;
  const std::string& system_;
  const Config reference_;
  Runner runner_;
  std::map<std::string, double> known_;  // KL by measurement_key
  std::map<std::string, CaseResult> answers_;
  std::vector<PreparedCase> prompts_;
  std::vector<Predictions> dense_;  // of prompts_
  int32_t step_ = 0;
};

Result<Setup> make_setup(const TuneOptions& options, const LlamaModel& model) {
  Setup setup{.lengths = options.lengths,
              .cases = options.cases > 0 ? options.cases : options.quick ? 1 : 2,
              .rungs = {},
              .budget = std::stod(options.budget),
              .layers = {}};
  const int32_t most = model.max_context() - Runner::kReserve;
  if (setup.lengths.empty()) setup.lengths = {std::min(options.quick ? 1024 : 4096, most)};
  std::sort(setup.lengths.begin(), setup.lengths.end());
  if (options.ubatch > model.max_context()) {
    return Status::error(StatusCode::kInvalidArgument,
                         "--ubatch %d is beyond the model's context; allowed: 1 to %d",
                         options.ubatch, model.max_context());
  }
  if (setup.lengths.back() > most) {
    return Status::error(StatusCode::kInvalidArgument,
                         "--lengths %d: allowed: up to %d, the model's context less %d for answers",
                         setup.lengths.back(), most, Runner::kReserve);
  }
  Profile start = default_profile(model.fingerprint());
  start.model = model.source().name;
  const std::string ladder = options.quick && options.ladder == TuneOptions().ladder
                                 ? "keep=.2/.4" : options.ladder;
  Result<std::vector<Config>> configs =
      parse_configs({"forced:" + ladder}, start, options.ubatch);
  if (!configs.ok()) return configs.status();
  for (Config& config : configs.value()) {
    if (!config.method->selects()) continue;
    if (config.profile.select.budget == BudgetPolicy::kTau || config.chunk != options.ubatch) {
      return Status::error(StatusCode::kInvalidArgument,
                           "--ladder %s: tune compares savings that are known beforehand; allowed: "
                           "keep=... or count=..., with local fill, and no chunk (see --ubatch)",
                           ladder.c_str());
    }
    if (!config.profile.layer_select.empty()) {
      return Status::error(StatusCode::kInvalidArgument,
                           "--ladder %s: the profile has a layer_select, but tune itself finds the "
                           "layers that may keep less",
                           ladder.c_str());
    }
    setup.rungs.push_back(std::move(config));
  }
  return setup;
}

HeaderLine tune_header(const TuneOptions& options, const Setup& setup, const LlamaModel& model,
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

void print_frontier(const Setup& setup, const TuneOutcome& outcome, double max_kl) {
  Table table;
  table.add_row({"selection", "work", "KL", ""});
  for (const Candidate& c : outcome.measured) {
    if (c.layers.size() == 1 && c.rung == setup.rungs.size() / 2) continue;  // the ranking
    table.add_row({describe(setup, c), fmt::format("{:.1f} %", 100 * c.work),
                   fmt::format("{:.4f}", c.kl), c.kl <= max_kl ? "within the KL" : ""});
  }
  write_err(table.render());
}

Status write_profile(const TuneOptions& options, const Profile& profile) {
  const std::string json = profile_to_json(profile);
  if (options.output.empty()) {
    write_out(json);
    return {};
  }
  TOKENSIEVE_RETURN_IF_ERROR(write_atomically(options.output, json));
  print_out("wrote {}\n", options.output);
  return {};
}

// The cheapest candidate whose answers stay within the budget.
Status choose(const TuneOptions& options, const Setup& setup, Tuner& tuner, ResultsFile& file,
              const TuneOutcome& outcome) {
  for (const Candidate& candidate : outcome.feasible) {
    const Result<Loss> loss = tuner.answer_loss(candidate);
    if (!loss.ok()) return loss.status();
    const bool chosen = loss->solved_cells > 0 && loss->points.mean <= setup.budget;
    TuneStep line = tune_line(setup, candidate, outcome.measured.size());
    line.loss = loss->points.mean;
    line.chosen = chosen;
    TOKENSIEVE_RETURN_IF_ERROR(file.append(to_json(line)));
    print_err(
        "{}: work {:.1f} %, KL {:.4f}, loses {:.1f} points ({:.1f} to {:.1f}; {} answers): {}\n",
        describe(setup, candidate), 100 * candidate.work, candidate.kl, loss->points.mean,
        loss->points.low, loss->points.high, loss->points.count, chosen ? "chosen" : "too much");
    if (loss->solved_cells == 0) {
      return Status::error(StatusCode::kUnsupported,
                           "dense solves none of the tasks at these lengths, so a budget of "
                           "answers means nothing; try shorter --lengths");
    }
    if (chosen) return write_profile(options, tuner.profile_of(candidate));
  }
  return Status::error(StatusCode::kUnsupported,
                       "no selection of the ladder stays within --budget %s and --max-kl %g; raise "
                       "one of them, or add a milder rung to --ladder, such as keep=.7",
                       options.budget.c_str(), options.max_kl);
}

Status tune(const TuneOptions& options) {
  if (!options.output.empty()) TOKENSIEVE_RETURN_IF_ERROR(check_writable(options.output));
  Result<Session> session = start_session(options.model, options.verbose);
  if (!session.ok()) return session.status();
  const LlamaModel& model = session->model;
  Result<Setup> setup = make_setup(options, model);
  if (!setup.ok()) return setup.status();
  Result<SparseLayers> layers = find_sparse_layers(model, *session.value().plugin);
  if (!layers.ok()) return layers.status();
  setup.value().layers = std::move(layers.value());
  if (const std::string dense = always_dense(setup->layers); !dense.empty()) {
    print_err("always dense: {}\n", dense);
  }
  Plugin& plugin = *session.value().plugin;
  TOKENSIEVE_RETURN_IF_ERROR(
      Runner(model, plugin, setup->lengths.back(), setup->rungs).check());
  const std::string system = options.system.value_or(model.source().system_prompt);
  const HeaderLine header = tune_header(options, *setup, model, system);
  const std::string path =
      options.results.empty() ? default_output("tune", header) : options.results;
  Result<ResultsFile> file = ResultsFile::open(path, to_json(header));
  if (!file.ok()) return file.status();
  print_err("{} {}\n", file->resumed() ? "going on with" : "measurements:", path);

  Tuner tuner(options, *setup, model, plugin, file.value(), system);
  const Result<TuneOutcome> outcome = tuner.find_candidates();
  if (!outcome.ok()) return outcome.status();
  print_frontier(*setup, *outcome, options.max_kl);
  return choose(options, *setup, tuner, file.value(), *outcome);
}

}  // namespace

int run_tune(const TuneOptions& options) {
  const Status status = tune(options);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tokensieve::cli
