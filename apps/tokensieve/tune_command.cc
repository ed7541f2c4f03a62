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
#include "tune_setup.h"

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
using eval::HeaderLine;
using eval::Json;
using eval::Loss;
using eval::PairedScore;
using eval::Predictions;
using eval::prepare_case;
using eval::PreparedCase;
using eval::result_key;
using eval::ResultsFile;
using eval::Runner;
using eval::TuneOutcome;
using eval::TuneProblem;
using eval::TuneStep;

// A candidate is then checked on answers that it really gives.
const std::vector<std::string> kAnswerTasks = {"single_needle", "multi_key", "multi_value", "qa"};

using Effect = Candidate::Effect;

class Tuner {
 public:
  Tuner(const TuneOptions& options, const TuneSetup& setup, const LlamaModel& model, Plugin& plugin,
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
      if (!step.rung.empty()) known_[measurement_key(step)] = {step.kl, step.work};
    }
  }

  Result<TuneOutcome> find_candidates() {
    TuneProblem problem{.layers = setup_.layers.layers,
                        .rungs = setup_.rungs.size(),
                        .base_rung = setup_.rungs.size() / 2,
                        .max_kl = options_.max_kl,
                        .measure = {}};
    const int32_t most = most_measurements(problem);
    Progress progress("tune", most, "measurements");
    problem.measure = [&](const Candidate& candidate) {
      progress.set_detail(describe(setup_, candidate));
      const Result<Effect> effect = measure(candidate, [&](double fraction) {
        progress.update((step_ + fraction) / most);
      });
      ++step_;
      return effect;
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
    const OnProgress whole = [&](double fraction) { progress.update(fraction); };
    const size_t runs = 2 * ids.size();
    for (size_t i = 0; i < ids.size(); ++i) {
      CaseId id = ids[i];
      id.index += kAnswerIndex;
      const Result<PreparedCase> input = prepare(id);
      if (!input.ok()) return input.status();
      const Result<const CaseResult*> reference =
          dense_answer(*input, part_of(whole, 2 * i, runs));
      if (!reference.ok()) return reference.status();
      const Result<CaseRun> run =
          runner_.run(*input, config, {.on_progress = part_of(whole, 2 * i + 1, runs)});
      if (!run.ok()) return run.status();
      add_scores(**reference, run->result, scores);
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
      const Profile& thin = setup_.rungs[candidate.thin_rung].profile;
      config.profile.layer_select = {{candidate.thin_layers, thin.select, thin.blocks}};
    }
    return config;
  }

  Result<Effect> measure(Candidate candidate, OnProgress on_progress) {
    const std::string key = measurement_key(tune_line(setup_, candidate, 0));
    if (const auto found = known_.find(key); found != known_.end()) return found->second;
    if (prompts_.empty()) {
      TOKENSIEVE_RETURN_IF_ERROR(prepare_prompts(part_of(on_progress, 0, 2)));
      on_progress = part_of(on_progress, 1, 2);
    }
    const Config config = config_of(candidate);
    std::map<std::string, std::pair<double, int>> by_task;
    double work = 0;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      const Result<CaseRun> run = runner_.run(
          prompts_[i], config, {.on_progress = part_of(on_progress, i, prompts_.size())});
      if (!run.ok()) return run.status();
      auto& [sum, count] = by_task[prompts_[i].source.task];
      sum += compare(dense_[i], run->predictions).kl;
      ++count;
      work += run->result.work.value_or(1);
    }
    // Tasks count alike. The worst of them would follow one prompt's noise.
    double kl = 0;
    for (const auto& [task, sum] : by_task) kl += sum.first / sum.second;
    kl /= static_cast<double>(by_task.size());
    known_[key] = candidate.effect = {kl, work / static_cast<double>(prompts_.size())};
    TOKENSIEVE_RETURN_IF_ERROR(
        file_.append(to_json(tune_line(setup_, candidate, known_.size()))));
    return candidate.effect;
  }

  // The prompts and what dense predicts for the text or the right answer that follows.
  Status prepare_prompts(const OnProgress& on_progress) {
    const std::vector<CaseId> ids = case_ids(kKlTasks, setup_.lengths, setup_.cases);
    for (size_t i = 0; i < ids.size(); ++i) {
      Result<PreparedCase> made = prepare(ids[i]);
      if (!made.ok()) return made.status();
      PreparedCase& input = made.value();
      if (!input.is_text()) input.continuation = right_answer(model_, input.source.question);
      const Result<CaseRun> run =
          runner_.run(input, reference_, {.on_progress = part_of(on_progress, i, ids.size())});
      if (!run.ok()) return run.status();
      dense_.push_back(run->predictions);
      prompts_.push_back(std::move(input));
    }
    return {};
  }

  Result<const CaseResult*> dense_answer(const PreparedCase& input, const OnProgress& on_progress) {
    const Case& c = input.source;
    const std::string key = result_key(c.task, c.length, c.index, "dense");
    if (const auto found = answers_.find(key); found != answers_.end()) return &found->second;
    Result<CaseRun> run = runner_.run(input, reference_, {.on_progress = on_progress});
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
  const TuneSetup& setup_;
  const LlamaModel& model_;
  ResultsFile& file_;
  const std::string& system_;
  const Config reference_;
  Runner runner_;
  std::map<std::string, Effect> known_;  // by measurement_key
  std::map<std::string, CaseResult> answers_;
  std::vector<PreparedCase> prompts_;
  std::vector<Predictions> dense_;  // of prompts_
  int32_t step_ = 0;
};

void print_frontier(const TuneSetup& setup, const TuneOutcome& outcome, double max_kl) {
  Table table;
  table.add_row({"selection", "work", "KL", ""});
  for (const Candidate& c : outcome.measured) {
    if (c.layers.size() == 1 && c.rung == setup.rungs.size() / 2) continue;  // the ranking
    table.add_row({describe(setup, c), fmt::format("{:.1f} %", 100 * c.effect.work),
                   fmt::format("{:.4f}", c.effect.kl),
                   c.effect.kl <= max_kl ? "within the KL" : ""});
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
Status choose(const TuneOptions& options, const TuneSetup& setup, Tuner& tuner, ResultsFile& file,
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
        describe(setup, candidate), 100 * candidate.effect.work, candidate.effect.kl,
        loss->points.mean, loss->points.low, loss->points.high, loss->points.count,
        chosen ? "chosen" : "too much");
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
  Result<TuneSetup> setup = make_tune_setup(options, model);
  if (!setup.ok()) return setup.status();
  Plugin& plugin = *session.value().plugin;
  TOKENSIEVE_RETURN_IF_ERROR(
      Runner(model, plugin, setup->lengths.back(), setup->rungs).check());
  Result<SparseLayers> layers = find_sparse_layers(model, plugin);
  if (!layers.ok()) return layers.status();
  setup.value().layers = std::move(layers.value());
  if (const std::string dense = always_dense(setup->layers); !dense.empty()) {
    print_err("always dense: {}\n", dense);
  }
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
