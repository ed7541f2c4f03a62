#include "eval/runner.h"

#include <algorithm>
#include <chrono>

#include "common/prefill_watch.h"
#include "common/terminal.h"

namespace tokensieve::eval {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// What is known before the run.
CaseResult result_of(const PreparedCase& input, const Config& config) {
  const Case& c = input.source;
  CaseResult result;
  result.task = c.task;
  result.length = c.length;
  result.index = c.index;
  result.config = config.name;
  result.filler = c.filler;
  if (c.depth >= 0) result.depth = c.depth;
  result.prompt_tokens = static_cast<int32_t>(input.prompt.size());
  result.prefill_ms = result.attention_ms = 0;
  return result;
}

}  // namespace

Runner::Runner(const LlamaModel& model, Plugin& plugin, int32_t max_tokens,
               std::span<const Config> configs)
    : model_(model), plugin_(plugin), max_tokens_(max_tokens) {
  for (const Config& config : configs) {
    // A continuation's logits are those of one decode.
    int32_t& longest = ubatches_.try_emplace(owner_of(config), kReserve).first->second;
    longest = std::max(longest, config.chunk > 0 ? std::min(config.chunk, max_tokens) : max_tokens);
  }
}

Status Runner::check() const {
  for (const auto& [owner, ubatch] : ubatches_) {
    TOKENSIEVE_RETURN_IF_ERROR(check_memory(model_, options_of(owner)));
  }
  return {};
}

Runner::Owner Runner::owner_of(const Config& config) {
  return config.method->prefill == Prefill::kStock ? Owner::kStock : Owner::kOurs;
}

ContextOptions Runner::options_of(Owner owner) const {
  return {.context = max_tokens_ + kReserve, .ubatch = ubatches_.at(owner), .outputs = kReserve};
}

Result<LlamaContext*> Runner::context(Owner owner) {
  if (const auto found = contexts_.find(owner); found != contexts_.end()) {
    found->second.clear();
    return &found->second;
  }
  // The mode counts when a context is made: whether it leaves attention to the plug-in.
  TOKENSIEVE_RETURN_IF_ERROR(plugin_.configure(
      owner == Owner::kStock ? TOKENSIEVE_GGML_OFF : TOKENSIEVE_GGML_DENSE, nullptr));
  const Clock::time_point start = Clock::now();
  Result<LlamaContext> created = LlamaContext::create(model_, options_of(owner));
  if (!created.ok()) return created.status();
  LlamaContext& made = contexts_.emplace(owner, std::move(created.value())).first->second;
  TOKENSIEVE_RETURN_IF_ERROR(made.warm_up());
  made.clear();
  model_ms_ += ms_since(start);
  return &made;
}

Status Runner::start(Job& job) {
  const Owner owner = owner_of(job.config);
  const Result<LlamaContext*> made = context(owner);
  if (!made.ok()) return made.status();
  const int32_t chunk = job.config.chunk;
  job.context = *made;
  job.ubatch = chunk > 0 ? std::min(chunk, max_tokens_) : max_tokens_;
  job.context->set_ubatch(job.ubatch);
  return {};
}

Result<CaseRun> Runner::run(const PreparedCase& input, const Config& config,
                            const Options& options) {
  Job job{.input = input, .config = config, .options = options, .out = {}};
  job.out.result = result_of(input, config);
  TOKENSIEVE_RETURN_IF_ERROR(prefill(job));
  if (input.is_text()) {
    TOKENSIEVE_RETURN_IF_ERROR(predict(job));
  } else {
    TOKENSIEVE_RETURN_IF_ERROR(answer(job));
    TOKENSIEVE_RETURN_IF_ERROR(ask_again(job));
  }
  return std::move(job.out);
}

Status Runner::read(Job& job, std::span<const llama_token> tokens, Pass pass) {
  const auto count = static_cast<int32_t>(tokens.size());
  cli::PrefillWatch watch(
      {.num_layers = model_.num_layers(),
       .num_ubatches = (count + job.ubatch - 1) / job.ubatch,
       .time_attention = job.is_stock(),
       .on_progress = cli::part_of(job.options.on_progress, pass.index, pass.count)});
  plugin_.reset_stats();
  job.context->watch(&watch);
  const Clock::time_point start = Clock::now();
  const Status status = job.context->prefill(tokens, /*all_outputs=*/false, nullptr);
  const double ms = ms_since(start);
  job.context->watch(nullptr);
  *job.out.result.prefill_ms += ms;
  model_ms_ += ms;
  job.position += count;
  if (job.is_stock()) job.out.result.attention_ms = watch.attention_ms();
  const std::string products = cli::products_text(plugin_.stats());
  job.out.result.products = products == "exact" ? "" : products;
  return status;
}

Result<std::string> Runner::generate(Job& job) {
  return job.context->generate(answer_tokens(job.input.source.task), /*temperature=*/0, nullptr);
}

Status Runner::answer(Job& job) {
  const Clock::time_point start = Clock::now();
  Result<std::string> text = generate(job);
  CaseResult& result = job.out.result;
  result.generate_ms = ms_since(start);
  model_ms_ += *result.generate_ms;
  if (!text.ok()) return text.status();
  const Question& question = job.input.source.question;
  result.expected = question.expected;
  result.answer = std::move(text.value());
  result.score = score(question, result.answer);
  return {};
}

// Every follow-up is asked as if it were the next one after the prompt's question.
Status Runner::ask_again(Job& job) {
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < job.input.turns.size(); ++i) {
    const Question& question = job.input.source.follow_ups[i];
    job.context->rollback(job.position);
    TOKENSIEVE_RETURN_IF_ERROR(
        job.context->prefill(job.input.turns[i], /*all_outputs=*/false, nullptr));
    const Result<std::string> text = generate(job);
    if (!text.ok()) return text.status();
    job.out.result.follow_ups.push_back(
        {question.text, question.expected, *text, score(question, *text)});
  }
  model_ms_ += ms_since(start);
  return {};
}

Status Runner::predict(Job& job) {
  const Tokens& next = job.input.continuation;
  Predictions& predictions = job.out.predictions;
  predictions.add(job.context->logits(-1), next.front());
  const std::span<const llama_token> given(next.data(), next.size() - 1);
  job.context->set_ubatch(ubatches_.at(owner_of(job.config)));
  const Clock::time_point start = Clock::now();
  TOKENSIEVE_RETURN_IF_ERROR(job.context->prefill(given, /*all_outputs=*/true, nullptr));
  model_ms_ += ms_since(start);
  for (size_t i = 0; i < given.size(); ++i) {
    predictions.add(job.context->logits(static_cast<int32_t>(i)), next[i + 1]);
  }
  return {};
}

}  // namespace tokensieve::eval
