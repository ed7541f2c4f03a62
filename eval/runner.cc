#include "eval/runner.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "common/prefill_watch.h"
#include "common/signals.h"

namespace tokensieve::cli::eval {
namespace {

constexpr int32_t kStockUbatch = 512;  // llama.cpp's default, and the best for its own attention
constexpr int32_t kChunkUbatch = 2048;
using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double causal_pairs(double tokens) { return tokens * (tokens + 1) / 2; }

// A number of its own for every case, so that draws differ between cases and repeat between runs.
uint64_t seed_of(const Case& c) {
  uint64_t hash = c.seed;
  for (const char letter : c.task) hash = hash * 1099511628211u + static_cast<uint8_t>(letter);
  hash = hash * 1099511628211u + static_cast<uint64_t>(c.length);
  return hash * 1099511628211u + static_cast<uint64_t>(c.index);
}

// As many tokens, in every layer alike, as make the work of the selection that the baseline stands
// beside.
Profile matched_profile(Profile profile, const Config& config, int64_t tokens) {
  SelectConfig& select = profile.select;
  profile.layer_select.clear();
  select.keep_count = equal_work_count(select, beside_work(config, tokens), tokens);
  select.budget = BudgetPolicy::kKeepCount;
  select.min_keep = 0;
  return profile;
}

// Keeps one token of the prefix, a sink: every row sees sinks and its window, nothing is chosen.
Profile windowed_profile(Profile profile, const Config& config, int64_t tokens) {
  SelectConfig& select = profile.select;
  profile.layer_select.clear();
  if (config.equal_work) {
    select.local_window = equal_work_window(select, beside_work(config, tokens), tokens);
  }
  select.fill = Fill::kLocal;
  select.share = Share::kLayer;
  select.budget = BudgetPolicy::kKeepCount;
  select.keep_count = select.protect_first = 1;
  select.min_keep = 0;
  return profile;
}

// The plug-in's count treats the start of a prompt, where windows are short, like the rest of it.
void correct_work(const Profile& profile, double tokens, std::vector<LayerStats>& layers) {
  for (LayerStats& layer : layers) {
    if (layer.sparse_nodes == 0) continue;
    layer.pair_ratio = selection_work(profile.select_of(layer.layer), layer.keep_ratio * tokens,
                                      tokens);
  }
}

void summarize(CaseRun& run) {
  double keep = 0, work = 0;
  int sparse = 0;
  run.attention_ms = 0;
  for (const LayerStats& layer : run.layers) {
    if (layer.sparse_nodes > 0) {
      keep += layer.keep_ratio;
      ++sparse;
    }
    work += layer.pair_ratio;
    run.attention_ms += layer.attention_ms;
  }
  run.keep_ratio = sparse > 0 ? keep / sparse : 1;
  run.work = run.layers.empty() ? 1 : work / static_cast<double>(run.layers.size());
}

}  // namespace

struct Runner::Job {
  const PreparedCase& input;
  const Config& config;
  const Options& options;
  LlamaContext* context = nullptr;
  int32_t ubatch = 0;
  int32_t position = 0;  // tokens in the context after the prefill
  CaseRun out;

  std::span<const llama_token> prompt() const { return input.prompt; }
};

Result<LlamaContext*> Runner::context(Feed feed) {
  if (const auto found = contexts_.find(feed); found != contexts_.end()) {
    found->second.clear();
    return &found->second;
  }
  // The mode counts when a context is made: whether it leaves attention to the plug-in.
  TOKENSIEVE_RETURN_IF_ERROR(plugin_.configure(
      feed == Feed::kStock ? TOKENSIEVE_GGML_OFF : TOKENSIEVE_GGML_DENSE, nullptr));
  const int32_t ubatch = feed == Feed::kWhole    ? max_tokens_
                         : feed == Feed::kChunks ? kChunkUbatch
                                                 : kStockUbatch;
  const Clock::time_point start = Clock::now();
  Result<LlamaContext> created =
      LlamaContext::create(model_, {.context = max_tokens_ + kReserve,
                                    .ubatch = std::min(ubatch, max_tokens_),
                                    .outputs = kReserve});
  if (!created.ok()) return created.status();
  LlamaContext& made = contexts_.emplace(feed, std::move(created.value())).first->second;
  TOKENSIEVE_RETURN_IF_ERROR(made.warm_up());
  made.clear();
  model_ms_ += ms_since(start);
  return &made;
}

Result<CaseRun> Runner::run(const PreparedCase& input, const Config& config,
                            const Options& options) {
  Job job{.input = input, .config = config, .options = options, .out = {}};
  TOKENSIEVE_RETURN_IF_ERROR(prefill(job));
  if (input.is_text()) {
    TOKENSIEVE_RETURN_IF_ERROR(predict(job));
  } else {
    TOKENSIEVE_RETURN_IF_ERROR(answer(job));
    TOKENSIEVE_RETURN_IF_ERROR(ask_again(job));
  }
  return std::move(job.out);
}

Status Runner::prefill(Job& job) {
  switch (job.config.kind) {
    case Kind::kNone:
      return prefill_without_selection(job);
    case Kind::kEvict:
      return prefill_evicted(job);
    case Kind::kStock:
    case Kind::kDense:
      break;
    default:
      return prefill_with_selection(job);
  }
  const bool stock = job.config.kind == Kind::kStock;
  const Result<LlamaContext*> made = context(stock ? Feed::kStock : Feed::kChunks);
  if (!made.ok()) return made.status();
  job.context = *made;
  job.ubatch = stock ? kStockUbatch : kChunkUbatch;
  TOKENSIEVE_RETURN_IF_ERROR(
      plugin_.configure(stock ? TOKENSIEVE_GGML_OFF : TOKENSIEVE_GGML_DENSE, nullptr));
  TOKENSIEVE_RETURN_IF_ERROR(read(job, job.prompt()));
  if (stock) return {};
  job.out.layers = plugin_.stats();
  summarize(job.out);
  return {};
}

Status Runner::prefill_with_selection(Job& job) {
  const Config& config = job.config;
  const Result<LlamaContext*> made = context(config.chunk ? Feed::kChunks : Feed::kWhole);
  if (!made.ok()) return made.status();
  job.context = *made;
  job.ubatch = config.chunk ? kChunkUbatch : max_tokens_;

  Profile profile = config.profile;
  const auto tokens = static_cast<int32_t>(job.input.prompt.size());
  if (config.equal_work) profile = matched_profile(std::move(profile), config, tokens);
  KeptByLayer draft, kept;
  std::unique_ptr<Selector> selector;
  if (config.kind == Kind::kRandom) selector = random_selector(seed_of(job.input.source));
  if (config.kind == Kind::kRecent) selector = recent_selector(profile.select.sinks);
  if (config.kind == Kind::kOnce) selector = once_selector();
  if (config.kind == Kind::kDraft) {
    TOKENSIEVE_RETURN_IF_ERROR(record_draft(job, draft));
    selector = replay_selector(draft);
  }
  if (job.options.keep_sets || config.kind == Kind::kRecent) {
    selector = inspecting_selector(std::move(selector), kept);
  }
  TOKENSIEVE_RETURN_IF_ERROR(plugin_.configure(
      config.chunk ? TOKENSIEVE_GGML_CHUNK : TOKENSIEVE_GGML_WHOLE, &profile,
      {.select = selector ? Selector::hook : nullptr,
       .user = selector.get(),
       .always_sparse = config.always_sparse}));
  const Status status = read(job, job.prompt());
  TOKENSIEVE_RETURN_IF_ERROR(plugin_.configure(TOKENSIEVE_GGML_DENSE, nullptr));  // unhook
  TOKENSIEVE_RETURN_IF_ERROR(status);
  job.out.layers = plugin_.stats();
  if (!config.chunk) {
    correct_work(profile, tokens, job.out.layers);
  }
  summarize(job.out);
  if (config.kind == Kind::kRecent && !kept.empty()) {
    const auto& set = kept.begin()->second.sets.front();
    const int32_t newest = static_cast<int32_t>(set.size()) - profile.select.sinks;
    job.context->forget(profile.select.sinks, tokens - newest);
  }
  if (job.options.keep_sets) job.out.kept = std::move(kept);
  return {};
}

// The target's own choices while it runs dense: not charged to the configuration.
Status Runner::record_draft(Job& job, KeptByLayer& sets) {
  const std::unique_ptr<Selector> recorder = recording_selector(sets, /*dense=*/true);
  TOKENSIEVE_RETURN_IF_ERROR(
      plugin_.configure(TOKENSIEVE_GGML_WHOLE, &job.config.profile,
                        {.select = Selector::hook, .user = recorder.get(), .always_sparse = true}));
  TOKENSIEVE_RETURN_IF_ERROR(read(job, job.prompt()));
  job.context->clear();
  job.position = 0;
  job.out = {};
  return {};
}

// All rows but the last ones see sinks and a window; the last ones see everything.
Status Runner::prefill_without_selection(Job& job) {
  const Result<LlamaContext*> made = context(Feed::kWhole);
  if (!made.ok()) return made.status();
  job.context = *made;
  job.ubatch = max_tokens_;
  const auto tokens = static_cast<int64_t>(job.input.prompt.size());
  const int64_t last = std::min<int64_t>(job.config.profile.select.obs_window, tokens - 1);
  const Profile profile = windowed_profile(job.config.profile, job.config, tokens);
  TOKENSIEVE_RETURN_IF_ERROR(
      plugin_.configure(TOKENSIEVE_GGML_WHOLE, &profile, {.always_sparse = true}));
  const auto windowed = job.prompt().first(static_cast<size_t>(tokens - last));
  TOKENSIEVE_RETURN_IF_ERROR(read(job, windowed));
  job.out.layers = plugin_.stats();
  correct_work(profile, static_cast<double>(windowed.size()), job.out.layers);
  TOKENSIEVE_RETURN_IF_ERROR(read(job, job.prompt().subspan(windowed.size())));
  const double all = causal_pairs(static_cast<double>(tokens));
  const double counted = causal_pairs(static_cast<double>(windowed.size())) / all;
  for (LayerStats& layer : job.out.layers) {
    layer.pair_ratio = layer.pair_ratio * counted + (1 - counted);
  }
  summarize(job.out);
  return {};
}

// Layers up to the filter read everything; its choice is then a prompt of its own.
Status Runner::prefill_evicted(Job& job) {
  const Result<LlamaContext*> made = context(Feed::kWhole);
  if (!made.ok()) return made.status();
  job.context = *made;
  job.ubatch = max_tokens_;
  Profile profile = job.config.profile;
  profile.sparse_layers = {job.config.filter_layer};
  profile.layer_select.clear();
  profile.select.protect_first = std::max(profile.select.protect_first, profile.select.sinks);
  KeptByLayer kept;
  const std::unique_ptr<Selector> filter = recording_selector(
      kept, /*dense=*/true, [&](int32_t) { job.context->stop(); });
  TOKENSIEVE_RETURN_IF_ERROR(
      plugin_.configure(TOKENSIEVE_GGML_WHOLE, &profile,
                        {.select = Selector::hook, .user = filter.get(), .always_sparse = true}));
  const Status filtered = read(job, job.prompt());
  std::vector<LayerStats> first_pass = plugin_.stats();
  TOKENSIEVE_RETURN_IF_ERROR(plugin_.configure(TOKENSIEVE_GGML_DENSE, nullptr));
  if (interrupted() || kept.empty()) {  // too short to choose: the whole prompt was read
    TOKENSIEVE_RETURN_IF_ERROR(filtered);
    job.out.layers = std::move(first_pass);
    summarize(job.out);
    return {};
  }

  Tokens rest;
  for (const int32_t token : kept.begin()->second.sets.front()) {
    rest.push_back(job.input.prompt[static_cast<size_t>(token)]);
  }
  job.context->clear();
  job.position = 0;
  TOKENSIEVE_RETURN_IF_ERROR(read(job, rest));
  const auto all = static_cast<double>(job.input.prompt.size());
  const double share = causal_pairs(static_cast<double>(rest.size())) / causal_pairs(all);
  for (int32_t l = 0; l < model_.num_layers(); ++l) {
    job.out.layers.push_back({.layer = l,
                              .sparse_nodes = 1,
                              .keep_ratio = static_cast<double>(rest.size()) / all,
                              .pair_ratio = share + (l <= job.config.filter_layer ? 1 : 0)});
  }
  for (const auto& pass : {first_pass, plugin_.stats()}) {
    for (const LayerStats& layer : pass) {
      if (layer.layer < 0 || layer.layer >= model_.num_layers()) continue;
      job.out.layers[static_cast<size_t>(layer.layer)].attention_ms += layer.attention_ms;
    }
  }
  summarize(job.out);
  if (job.options.keep_sets) job.out.kept = std::move(kept);
  return {};
}

Status Runner::read(Job& job, std::span<const llama_token> tokens) {
  const auto count = static_cast<int32_t>(tokens.size());
  const bool stock = job.config.kind == Kind::kStock;
  PrefillWatch watch({.num_layers = model_.num_layers(),
                      .num_ubatches = (count + job.ubatch - 1) / job.ubatch,
                      .time_attention = stock,
                      .on_progress = job.options.on_progress});
  plugin_.reset_stats();
  job.context->watch(&watch);
  const Clock::time_point start = Clock::now();
  const Status status = job.context->prefill(tokens, /*all_outputs=*/false, nullptr);
  const double ms = ms_since(start);
  job.context->watch(nullptr);
  job.out.prefill_ms += ms;
  model_ms_ += ms;
  job.position += count;
  if (stock) job.out.attention_ms = watch.attention_ms();
  return status;
}

Result<std::string> Runner::generate(Job& job) {
  return job.context->generate(answer_tokens(job.input.source.task), /*temperature=*/0, nullptr);
}

Status Runner::answer(Job& job) {
  const Clock::time_point start = Clock::now();
  Result<std::string> text = generate(job);
  job.out.generate_ms = ms_since(start);
  model_ms_ += job.out.generate_ms;
  if (!text.ok()) return text.status();
  job.out.answer = std::move(text.value());
  return {};
}

// Every follow-up is asked as if it were the next one after the prompt's question.
Status Runner::ask_again(Job& job) {
  const Clock::time_point start = Clock::now();
  for (const Tokens& turn : job.input.turns) {
    job.context->rollback(job.position);
    TOKENSIEVE_RETURN_IF_ERROR(job.context->prefill(turn, /*all_outputs=*/false, nullptr));
    Result<std::string> text = generate(job);
    if (!text.ok()) return text.status();
    job.out.follow_ups.push_back(std::move(text.value()));
  }
  model_ms_ += ms_since(start);
  return {};
}

Status Runner::predict(Job& job) {
  const Tokens& next = job.input.continuation;
  Predictions& predictions = job.out.predictions;
  predictions.add(job.context->logits(-1), next.front());
  const std::span<const llama_token> given(next.data(), next.size() - 1);
  const Clock::time_point start = Clock::now();
  TOKENSIEVE_RETURN_IF_ERROR(job.context->prefill(given, /*all_outputs=*/true, nullptr));
  model_ms_ += ms_since(start);
  for (size_t i = 0; i < given.size(); ++i) {
    predictions.add(job.context->logits(static_cast<int32_t>(i)), next[i + 1]);
  }
  return {};
}

}  // namespace tokensieve::cli::eval
