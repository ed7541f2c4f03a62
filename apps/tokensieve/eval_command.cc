#include "eval_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "common/command.h"
#include "drift.h"
#include "eval/cases.h"
#include "eval/closing.h"
#include "eval/lines.h"
#include "common/files.h"
#include "common/profiles.h"
#include "common/session.h"
#include "common/sparse_layers.h"
#include "common/terminal.h"

namespace tokensieve::cli {
namespace {

using eval::CaseId;
using eval::CaseRun;
using eval::closing_json;
using eval::closing_tables;
using eval::Config;
using eval::default_configs;
using eval::DriftLine;
using eval::EvalPlan;
using eval::HeaderLine;
using eval::Json;
using eval::LayerResult;
using eval::parse_configs;
using eval::prepare_case;
using eval::PreparedCase;
using eval::result_key;
using eval::ResultsFile;
using eval::Runner;
using eval::task_names;

constexpr int32_t kDriftTokens = 1024;

// Seconds of a prefill grow about like this: linear layers, then attention.
double cost(const Config& config, int32_t length) {
  const double tokens = length;
  const double passes = config.method->records ? 2 : 1;
  return passes * tokens * (1 + tokens / 8000);
}

// All that a run needs, and the loop over its cases.
class Evaluation {
 public:
  Evaluation(const EvalOptions& options, const EvalPlan& plan, const LlamaModel& model,
             Plugin& plugin, ResultsFile& file, const std::string& system)
      : options_(options),
        plan_(plan),
        model_(model),
        file_(file),
        system_(system),
        runner_(model, plugin, plan.lengths.back(), plan.configs),
        progress_("eval", count_todo(), "runs") {
    for (const Json& line : file_.earlier()) has_drift_ |= line["type"] == "drift";
  }

  Status run() {
    for (const CaseId& id : plan_.case_ids()) TOKENSIEVE_RETURN_IF_ERROR(run_case(id));
    if (ran_ > 0) progress_.finish();
    return {};
  }

  // The report shows it beside what was kept. Models whose hidden states cannot be read have none.
  Status add_drift() {
    if (has_drift_ || ran_ == 0) return {};
    const int32_t tokens = std::min(kDriftTokens, model_.max_context());
    const Result<PreparedCase> text =
        prepare_case(model_, system_, {"text", tokens, 0}, plan_.seed);
    if (!text.ok()) return {};
    const Result<std::vector<double>> drift = measure_drift(model_, text->source.document, tokens);
    if (drift.ok()) return file_.append(to_json(DriftLine{*drift}));
    return drift.status().code() == StatusCode::kCancelled ? drift.status() : Status();
  }

  int32_t ran() const { return ran_; }
  double model_ms() const { return runner_.model_ms(); }

 private:
  // Fills done_ and total_cost_.
  int32_t count_todo() {
    for (const Json& line : file_.earlier()) {
      if (line["type"] == "result") done_.insert(result_key(line));
    }
    int32_t todo = 0;
    for (const CaseId& id : plan_.case_ids()) {
      for (const Config& config : plan_.configs) {
        if (is_done(id, config)) continue;
        ++todo;
        if (!config.runs_as_dense(id.length)) total_cost_ += cost(config, id.length);
      }
    }
    return todo;
  }

  bool is_done(const CaseId& id, const Config& config) const {
    return done_.contains(result_key(id.task, id.length, id.index, config.name));
  }

  Status run_case(const CaseId& id) {
    const int32_t inspected = inspected_++;
    if (std::all_of(plan_.configs.begin(), plan_.configs.end(),
                    [&](const Config& config) { return is_done(id, config); })) {
      return {};
    }
    if (interrupted()) return Status::error(StatusCode::kCancelled, "cancelled");
    const Result<PreparedCase> made = prepare_case(model_, system_, id, plan_.seed);
    if (!made.ok()) return made.status();
    const PreparedCase& input = *made;

    std::optional<CaseRun> dense;  // the first configuration
    for (const Config& config : plan_.configs) {
      const bool is_dense = &config == &plan_.configs.front();
      const bool done = is_done(id, config);
      if (done && !(is_dense && needs_dense(id, input))) continue;
      progress_.set_detail(fmt::format("{} {} {}", id.task, id.length, config.name));
      if (!is_dense && runs_as_dense(config, input) && dense.has_value()) {
        TOKENSIEVE_RETURN_IF_ERROR(write_reused(input, config, *dense));
        continue;
      }
      const bool keep_sets = inspected < options_.inspect && config.method->selects();
      Result<CaseRun> run = run_config(input, config, keep_sets, done);
      if (!run.ok()) return run.status();
      if (!done) {
        const CaseRun* reference = dense ? &*dense : is_dense ? &*run : nullptr;
        TOKENSIEVE_RETURN_IF_ERROR(write(input, config, run.value(), reference));
      }
      if (is_dense) dense = std::move(run.value());
    }
    return {};
  }

  // Whether a missing configuration of this case is compared with dense, or is dense.
  bool needs_dense(const CaseId& id, const PreparedCase& input) const {
    return std::any_of(plan_.configs.begin(), plan_.configs.end(), [&](const Config& config) {
      return !is_done(id, config) && (input.is_text() || runs_as_dense(config, input));
    });
  }

  // Exactly as the first configuration, dense, runs.
  bool runs_as_dense(const Config& config, const PreparedCase& input) const {
    return config.profile.products == plan_.configs.front().profile.products &&
           config.runs_as_dense(static_cast<int64_t>(input.prompt.size()));
  }

  // `dense`: what text is compared with, or null.
  Status write(const PreparedCase& input, const Config& config, CaseRun& run,
               const CaseRun* dense) {
    if (input.is_text() && dense != nullptr) {
      run.result.metrics = compare(dense->predictions, run.predictions);
    }
    TOKENSIEVE_RETURN_IF_ERROR(file_.append(to_json(run.result)));
    if (run.kept.empty()) return {};
    return file_.append(to_json(kept_line(input, config, run.kept, model_)));
  }

  Result<CaseRun> run_config(const PreparedCase& input, const Config& config, bool keep_sets,
                             bool again) {
    const double share = again ? 0 : cost(config, input.source.length);
    Result<CaseRun> run = runner_.run(
        input, config, {.keep_sets = keep_sets, .on_progress = [&](double fraction) {
                          progress_.update((done_cost_ + share * fraction) / total_cost_);
                        }});
    done_cost_ += share;
    ++ran_;
    return run;
  }

  Status write_reused(const PreparedCase& input, const Config& config, const CaseRun& dense) {
    CaseRun run = dense;
    run.result.config = config.name;
    run.result.reused = "dense";
    for (LayerResult& layer : run.result.layers) layer.reason = "prompt shorter than min_tokens";
    ++ran_;
    return write(input, config, run, &dense);
  }

  const EvalOptions& options_;
  const EvalPlan& plan_;
  const LlamaModel& model_;
  ResultsFile& file_;
  const std::string& system_;
  Runner runner_;
  std::set<std::string> done_;
  double total_cost_ = 0;
  double done_cost_ = 0;
  int32_t ran_ = 0;
  int32_t inspected_ = 0;
  bool has_drift_ = false;
  Progress progress_;  // last: it counts what there is to do
};

Status check_tasks(const std::vector<std::string>& tasks) {
  const std::vector<std::string_view> known = task_names();
  for (const std::string& task : tasks) {
    if (std::find(known.begin(), known.end(), task) != known.end()) continue;
    return Status::error(StatusCode::kInvalidArgument, "unknown task \"%s\"; allowed: all, %s",
                         task.c_str(), fmt::format("{}", fmt::join(known, ", ")).c_str());
  }
  return {};
}

Result<std::vector<std::string>> chosen_tasks(const EvalOptions& options) {
  std::vector<std::string> tasks = options.tasks;
  if (tasks.empty()) {
    tasks = {"multi_key", "multi_value", "multi_query", "variable_tracking", "qa", "text"};
  }
  if (tasks.size() == 1 && tasks[0] == "all") {
    tasks.clear();
    for (const std::string_view task : task_names()) tasks.emplace_back(task);
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_tasks(tasks));
  std::vector<std::string> unique;
  for (std::string& task : tasks) {
    if (std::find(unique.begin(), unique.end(), task) == unique.end()) {
      unique.push_back(std::move(task));
    }
  }
  return unique;
}

Status check_lengths(const std::vector<int32_t>& lengths, const LlamaModel& model) {
  const int32_t most = model.max_context() - Runner::kReserve;
  if (lengths.back() <= most) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "--lengths %d: the model's context is %d tokens, %d of them for answers; "
                       "allowed: up to %d, or use a model with a longer context (smollm2-128k, or "
                       "--rope-scaling yarn)",
                       lengths.back(), model.max_context(), Runner::kReserve, most);
}

Status check_chunks(const std::vector<Config>& configs, int32_t context) {
  for (const Config& config : configs) {
    if (config.chunk <= context) continue;
    return Status::error(StatusCode::kInvalidArgument,
                         "%s reads %d tokens at a time (--ubatch, or chunk=...); allowed: 1 to %d, "
                         "the model's context",
                         config.name.c_str(), config.chunk, context);
  }
  return {};
}

Result<EvalPlan> make_plan(const EvalOptions& options, const LlamaModel& model) {
  EvalPlan plan{.cases = options.cases, .seed = options.seed};
  Result<std::vector<std::string>> tasks = chosen_tasks(options);
  if (!tasks.ok()) return tasks.status();
  plan.tasks = std::move(tasks.value());
  const std::set<int32_t> lengths(options.lengths.begin(), options.lengths.end());
  plan.lengths.assign(lengths.begin(), lengths.end());
  TOKENSIEVE_RETURN_IF_ERROR(check_lengths(plan.lengths, model));
  Result<ChosenProfile> profile =
      choose_profile(options.profile, model.source().name, model.fingerprint());
  if (!profile.ok()) return profile.status();
  if (options.products != Products::kAuto) profile.value().profile.products = options.products;
  print_err("profile: {} (layers {})\n", profile->source,
            format_layers(profile->profile.sparse_layers));
  // Other engines get whole prompts, unless a configuration names a chunk.
  const int32_t chunk = options.write_cases.empty() ? options.ubatch : 0;
  Result<std::vector<Config>> configs = parse_configs(
      options.configs.empty() ? default_configs() : options.configs, profile->profile, chunk);
  if (!configs.ok()) return configs.status();
  plan.configs = std::move(configs.value());
  TOKENSIEVE_RETURN_IF_ERROR(check_chunks(plan.configs, model.max_context()));
  return plan;
}

// What layers that never run sparse would keep is no property of a configuration.
Status leave_out_dense_layers(const LlamaModel& model, Plugin& plugin, EvalPlan& plan) {
  const auto selects = [](const Config& config) { return config.method->selects(); };
  if (std::none_of(plan.configs.begin(), plan.configs.end(), selects)) return {};
  const Result<SparseLayers> layers = find_sparse_layers(model, plugin);
  if (!layers.ok()) return layers.status();
  if (layers->dense.empty()) return {};
  print_err("always dense: {}\n", always_dense(*layers));
  for (Config& config : plan.configs) {
    if (!selects(config)) continue;
    keep_only(*layers, config.profile);
    const auto filter =
        std::lower_bound(layers->layers.begin(), layers->layers.end(), config.filter_layer);
    config.filter_layer = filter != layers->layers.end() ? *filter : layers->layers.back();
  }
  return {};
}

// What each configuration that other engines can run does to a prompt of so many tokens.
std::string resolved_lines(const EvalPlan& plan, size_t tokens) {
  std::string lines;
  for (const Config& config : plan.configs) {
    const bool in_chunks = config.method->selects() && config.chunk > 0;
    if (in_chunks || !config.method->is_portable()) continue;
    lines += to_json(resolved_line(config, static_cast<int32_t>(tokens))).dump() + "\n";
  }
  return lines;
}

Status write_cases(const EvalOptions& options, const EvalPlan& plan, const LlamaModel& model,
                   const std::string& system) {
  HeaderLine header = header_line(plan, model, system);
  header.type = "cases";
  std::string lines = to_json(header).dump() + "\n";
  const std::vector<CaseId> ids = plan.case_ids();
  Progress progress("writing", std::ssize(ids), "cases");
  std::set<size_t> prompt_sizes;
  int64_t done = 0;
  for (const CaseId& id : ids) {
    if (interrupted()) return Status::error(StatusCode::kCancelled, "cancelled");
    const Result<PreparedCase> made = prepare_case(model, system, id, plan.seed);
    if (!made.ok()) return made.status();
    const size_t tokens = made->prompt.size();
    if (prompt_sizes.insert(tokens).second) lines += resolved_lines(plan, tokens);
    lines += case_line(*made).dump() + "\n";
    progress.update(static_cast<double>(++done) / static_cast<double>(ids.size()));
  }
  progress.finish();
  TOKENSIEVE_RETURN_IF_ERROR(write_atomically(options.write_cases, lines));
  print_err("wrote {}\n", options.write_cases);
  return {};
}

Status measure(Evaluation& evaluation) {
  const auto start = std::chrono::steady_clock::now();
  TOKENSIEVE_RETURN_IF_ERROR(evaluation.run());
  const double ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  if (evaluation.ran() > 0) {
    print_err("{:.1f} % of the time was the model's own\n",
              100 * evaluation.model_ms() / ms);
  }
  return evaluation.add_drift();
}

Status evaluate(const EvalOptions& options) {
  TOKENSIEVE_RETURN_IF_ERROR(chosen_tasks(options).status());  // before a model is loaded
  if (!options.write_cases.empty()) {
    TOKENSIEVE_RETURN_IF_ERROR(check_writable(options.write_cases));
  }
  Result<Session> session = start_session(options.model, options.verbose);
  if (!session.ok()) return session.status();
  const LlamaModel& model = session->model;
  const std::string system = options.system.value_or(model.source().system_prompt);
  Result<EvalPlan> plan = make_plan(options, model);
  if (!plan.ok()) return plan.status();
  TOKENSIEVE_RETURN_IF_ERROR(
      leave_out_dense_layers(model, *session.value().plugin, plan.value()));
  if (!options.write_cases.empty()) return write_cases(options, *plan, model, system);

  Plugin& plugin = *session.value().plugin;
  TOKENSIEVE_RETURN_IF_ERROR(
      Runner(model, plugin, plan->lengths.back(), plan->configs).check());
  const HeaderLine header = header_line(*plan, model, system);
  const std::string path =
      options.output.empty() ? default_output("eval", header) : options.output;
  Result<ResultsFile> file = ResultsFile::open(path, to_json(header));
  if (!file.ok()) return file.status();
  print_err("{} {}\n", file->resumed() ? "going on with" : "results:", path);

  Evaluation evaluation(options, *plan, model, plugin, file.value(), system);
  const Status status = measure(evaluation);
  if (!status.ok() && status.code() != StatusCode::kCancelled) return status;
  // An interrupted run shows what it has.
  const Result<std::string> summary = options.json ? closing_json(path, plan->lengths)
                                                   : closing_tables(path, plan->lengths);
  if (!summary.ok()) return summary.status();
  write_out(*summary);
  if (!status.ok()) print_err("stopped; the same command goes on with {}\n", path);
  return status;
}

}  // namespace

int run_eval(const EvalOptions& options) {
  const Status status = evaluate(options);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tokensieve::cli
