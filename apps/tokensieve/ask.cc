#include "ask.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "ask_report.h"
#include "common/chunks.h"
#include "common/command.h"
#include "common/files.h"
#include "common/layer_means.h"
#include "common/prefill_watch.h"
#include "common/profiles.h"
#include "common/prompt.h"
#include "common/session.h"
#include "common/system.h"
#include "common/terminal.h"

namespace tokensieve::cli {
namespace {

// What is fixed before the first run.
struct Task {
  const AskOptions& options;
  const LlamaModel& model;
  Plugin* plugin;  // null when only stock attention is wanted
  Profile profile;
  Tokens prompt;
  int32_t context;
};

std::vector<Attention> wanted_runs(const AskOptions& options) {
  if (!options.compare) return {options.attention};
  return {Attention::kStock, Attention::kDense, Attention::kSparse};
}

bool wants(const AskOptions& options, Attention attention) {
  const auto runs = wanted_runs(options);
  return std::find(runs.begin(), runs.end(), attention) != runs.end();
}

Result<std::vector<Document>> read_documents(const std::vector<std::string>& files) {
  std::vector<Document> documents;
  for (const std::string& file : files) {
    Result<std::string> text = read_text(file);
    if (!text.ok()) return text.status();
    documents.push_back({file, std::move(text.value())});
  }
  return documents;
}

// The context that prompt and answer need, checked against what the user and the model allow.
Result<int32_t> choose_context(const AskOptions& options, const LlamaModel& model,
                               size_t prompt_tokens) {
  const auto needed = static_cast<int64_t>(prompt_tokens) + options.max_tokens;
  const int64_t limit = options.context > 0 ? options.context : model.max_context();
  if (needed <= limit) return static_cast<int32_t>(options.context > 0 ? limit : needed);
  const char* fix = options.context > 0 && options.context < model.max_context()
                        ? "raise --ctx, or shorten the documents"
                        : "shorten the documents, lower --max-tokens, or use a model with a longer "
                          "context (smollm2-128k, or --rope-scaling yarn)";
  return Status::error(
      StatusCode::kInvalidArgument,
      "the prompt has %zu tokens and the answer may have %d, but the context holds "
      "%lld; %s",
      prompt_tokens, options.max_tokens, static_cast<long long>(limit), fix);
}

// Tokens that one graph reads. The paper's method has no chunks: its dropped queries are zeros.
int32_t ubatch_of(const AskOptions& options, Attention attention, size_t prompt_tokens) {
  const auto tokens = static_cast<int32_t>(prompt_tokens);
  int32_t ubatch = attention == Attention::kStock ? kStockUbatch : chunk_ubatch(tokens);
  if (attention == Attention::kSparse && (options.whole || options.paper)) ubatch = tokens;
  if (options.ubatch > 0) ubatch = options.ubatch;
  return std::min(ubatch, tokens);
}

tokensieve_ggml_mode mode_of(Attention attention) {
  if (attention == Attention::kStock) return TOKENSIEVE_GGML_OFF;
  return attention == Attention::kDense ? TOKENSIEVE_GGML_DENSE : TOKENSIEVE_GGML_SPARSE;
}

// Before the first run: what no run could be given.
Status check_runs(const AskOptions& options, const LlamaModel& model, size_t prompt_tokens,
                  int32_t context) {
  TOKENSIEVE_RETURN_IF_ERROR(check_ubatch(
      options.ubatch, options.context > 0 ? options.context : model.max_context()));
  for (const Attention attention : wanted_runs(options)) {
    TOKENSIEVE_RETURN_IF_ERROR(check_memory(
        model, {.context = context, .ubatch = ubatch_of(options, attention, prompt_tokens)}));
  }
  return {};
}

void print_piece(const std::string& piece) {
  write_out(piece);
  std::fflush(stdout);
}

Result<AskRun> run_attention(const Task& task, Attention attention, bool stream) {
  const auto tokens = static_cast<int32_t>(task.prompt.size());
  const int32_t ubatch = ubatch_of(task.options, attention, task.prompt.size());
  AskRun run{.attention = attention, .mode = attention_name(attention), .ubatch = ubatch};
  const bool sparse = attention == Attention::kSparse;
  if (sparse) run.mode = ubatch == tokens ? "whole" : "chunk";
  if (task.plugin != nullptr) {
    TOKENSIEVE_RETURN_IF_ERROR(task.plugin->configure(mode_of(attention),
                                                      sparse ? &task.profile : nullptr,
                                                      {.whole_prompts = ubatch == tokens,
                                                       .products = task.profile.products}));
  }
  Progress progress(fmt::format("reading ({})", attention_name(attention)), tokens, "tokens");
  PrefillWatch watch({.num_layers = task.model.num_layers(),
                      .num_ubatches = (tokens + ubatch - 1) / ubatch,
                      .time_attention = attention == Attention::kStock,
                      .on_progress = [&](double fraction) { progress.update(fraction); }});
  Result<LlamaContext> created =
      LlamaContext::create(task.model, {.context = task.context, .ubatch = ubatch});
  if (!created.ok()) return created.status();
  LlamaContext& context = created.value();
  TOKENSIEVE_RETURN_IF_ERROR(context.warm_up());
  if (task.plugin != nullptr) task.plugin->reset_stats();

  context.watch(&watch);
  const auto start = std::chrono::steady_clock::now();
  const Status prefilled = context.prefill(task.prompt, /*all_outputs=*/false, nullptr);
  run.prefill_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  context.watch(nullptr);
  TOKENSIEVE_RETURN_IF_ERROR(prefilled);
  progress.finish();
  run.memory_bytes = watch.peak_memory_bytes();
  run.attention_ms = watch.attention_ms();
  if (attention != Attention::kStock) {
    run.layers = task.plugin->stats();
    const LayerMeans means = means_of(run.layers);
    run.keep_ratio = means.keep_ratio;
    run.work = means.work;
    run.block_density = means.block_density;
    run.products = products_text(run.layers);
    run.attention_ms = means.attention_ms;
  }
  Result<std::string> answer =
      context.generate(task.options.max_tokens, task.options.temperature,
                       stream ? print_piece : std::function<void(const std::string&)>());
  if (stream) print_out("\n");  // also after a part of an answer
  if (!answer.ok()) return answer.status();
  run.answer = std::move(answer.value());
  return run;
}

Result<ChosenProfile> profile_for(const AskOptions& options, const LlamaModel& model) {
  if (!options.paper) {
    return choose_profile(options.profile, model.source().name, model.fingerprint());
  }
  Profile profile = default_profile(model.fingerprint());
  profile.model = "the paper's settings";
  profile.select = paper_select();
  return ChosenProfile{std::move(profile), "the paper's settings on the upper half"};
}

Status run_all(const Task& task, AskReport& report) {
  const AskOptions& options = task.options;
  const bool stream = !options.compare && !options.json;
  for (const Attention attention : wanted_runs(options)) {
    Result<AskRun> run = run_attention(task, attention, stream);
    if (!run.ok()) return run.status();
    report.runs.push_back(std::move(run.value()));
  }
  return {};
}

void print_report(const AskOptions& options, const AskReport& report) {
  if (options.json) {
    write_out(report_json(report));
  } else if (options.compare) {
    write_out(report_table(report, wants_color(STDOUT_FILENO)));
  } else {
    const AskRun& run = report.runs.front();
    print_err("{}\n", report_line(report, run));
    if (const std::string why = why_dense(run); !why.empty()) print_err("{}\n", why);
  }
}

Status ask(const AskOptions& options) {
  Result<std::vector<Document>> documents = read_documents(options.files);
  if (!documents.ok()) return documents.status();
  const bool ours = wants(options, Attention::kDense) || wants(options, Attention::kSparse);
  Result<Session> session = start_session(options.model, options.verbose, ours);
  if (!session.ok()) return session.status();
  const LlamaModel& model = session->model;
  const ResolvedModel& source = model.source();

  AskReport report{.model = source.name};
  report.threads = options.model.threads > 0 ? options.model.threads : default_threads();
  Profile profile;
  if (wants(options, Attention::kSparse)) {
    Result<ChosenProfile> chosen = profile_for(options, model);
    if (!chosen.ok()) return chosen.status();
    report.profile = chosen->source;
    profile = std::move(chosen.value().profile);
    if (options.blocks) set_blocks(profile, {.pattern = *options.blocks});
  }
  if (options.products != Products::kAuto) profile.products = options.products;
  Result<Prompt> prompt = build_prompt(model, *documents, options.question,
                                       options.system.value_or(source.system_prompt));
  if (!prompt.ok()) return prompt.status();
  const Result<int32_t> context = choose_context(options, model, prompt->tokens.size());
  if (!context.ok()) return context.status();
  TOKENSIEVE_RETURN_IF_ERROR(check_runs(options, model, prompt->tokens.size(), *context));
  // What is said before a run: only when there will be one.
  if (!report.profile.empty()) {
    print_err("profile: {} (layers {})\n", report.profile, format_layers(profile.sparse_layers));
  }
  if (!prompt->uses_template) {
    print_err("{} has no chat template that llama.cpp knows: plain text is used\n", source.name);
  }
  report.prompt_tokens = static_cast<int32_t>(prompt->tokens.size());
  const Task task{options,
                  model,
                  ours ? &*session.value().plugin : nullptr,
                  std::move(profile),
                  std::move(prompt.value().tokens),
                  *context};
  TOKENSIEVE_RETURN_IF_ERROR(run_all(task, report));
  print_report(options, report);
  return {};
}

}  // namespace

int run_ask(const AskOptions& options) {
  const Status status = ask(options);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tokensieve::cli
