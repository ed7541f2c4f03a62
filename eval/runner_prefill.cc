// The ways to read a prompt: one per enumerator of Prefill.
#include <algorithm>

#include "common/layer_means.h"
#include "common/signals.h"
#include "eval/runner.h"

namespace tokensieve::eval {
namespace {

// A number of its own for every case, so that draws differ between cases and repeat between runs.
uint64_t seed_of(const Case& c) {
  uint64_t hash = c.seed;
  for (const char letter : c.task) hash = hash * 1099511628211u + static_cast<uint8_t>(letter);
  hash = hash * 1099511628211u + static_cast<uint64_t>(c.length);
  return hash * 1099511628211u + static_cast<uint64_t>(c.index);
}

// What the plug-in counted, as the result has it.
void add_layers(const std::vector<LayerStats>& layers, CaseResult& result) {
  for (const LayerStats& l : layers) {
    const std::string why = l.dense_reason.empty() ? "dense" : l.dense_reason;
    result.layers.push_back({.layer = l.layer,
                             .keep_ratio = l.keep_ratio,
                             .work = l.work,
                             .attention_ms = l.attention_ms,
                             .reason = l.ran_sparse() ? "" : why});
    if (l.block_density < 1) result.layers.back().block_density = l.block_density;
  }
}

void summarize(CaseResult& result) {
  const cli::LayerMeans means = cli::means_of(result.layers);
  result.keep_ratio = means.keep_ratio;
  result.work = means.work;
  if (means.block_density < 1) result.block_density = means.block_density;
  result.attention_ms = means.attention_ms;
}

cli::PluginHook hook_of(Selector* selector, bool always_sparse, bool whole_prompts) {
  return {.select = selector != nullptr ? Selector::hook : nullptr,
          .user = selector,
          .always_sparse = always_sparse,
          .whole_prompts = whole_prompts};
}

}  // namespace

Status Runner::prefill(Job& job) {
  switch (job.config.method->prefill) {
    case Prefill::kStock:
    case Prefill::kDense:
      return prefill_densely(job);
    case Prefill::kSelect:
      return prefill_with_selection(job);
    case Prefill::kWindow:
      return prefill_with_window(job);
    case Prefill::kEvict:
      return prefill_evicted(job);
  }
  return {};
}

Status Runner::run_densely(const Job& job) {
  return plugin_.configure(TOKENSIEVE_GGML_DENSE, nullptr,
                           {.products = job.config.profile.products});
}

Status Runner::prefill_densely(Job& job) {
  TOKENSIEVE_RETURN_IF_ERROR(start(job));
  TOKENSIEVE_RETURN_IF_ERROR(
      job.is_stock() ? plugin_.configure(TOKENSIEVE_GGML_OFF, nullptr) : run_densely(job));
  TOKENSIEVE_RETURN_IF_ERROR(read(job, job.prompt()));
  if (job.is_stock()) return {};
  add_layers(plugin_.stats(), job.out.result);
  summarize(job.out.result);
  return {};
}

Status Runner::prefill_with_selection(Job& job) {
  const Config& config = job.config;
  const Method& method = *config.method;
  TOKENSIEVE_RETURN_IF_ERROR(start(job));
  const auto tokens = static_cast<int32_t>(job.input.prompt.size());
  const Profile profile = resolve(config, tokens).profile;
  KeptByLayer recorded, kept;
  if (method.records) TOKENSIEVE_RETURN_IF_ERROR(record(job, recorded));
  std::unique_ptr<Selector> selector;
  if (method.selector != nullptr) {
    selector = method.selector({.seed = seed_of(job.input.source),
                                .sinks = profile.select.sinks,
                                .recorded = recorded});
  }
  if (job.options.keep_sets || method.forgets) {
    selector = inspecting_selector(std::move(selector), kept);
  }
  TOKENSIEVE_RETURN_IF_ERROR(
      plugin_.configure(TOKENSIEVE_GGML_SPARSE, &profile,
                        hook_of(selector.get(), config.always_sparse, config.chunk == 0)));
  const Pass pass = method.records ? Pass{1, 2} : Pass{0, 1};
  const Status status = read(job, job.prompt(), pass);
  TOKENSIEVE_RETURN_IF_ERROR(run_densely(job));  // unhook
  TOKENSIEVE_RETURN_IF_ERROR(status);
  add_layers(plugin_.stats(), job.out.result);
  summarize(job.out.result);
  if (method.forgets && !kept.empty()) {
    const auto& set = kept.begin()->second.sets.front();
    const int32_t newest = static_cast<int32_t>(set.size()) - profile.select.sinks;
    job.context->forget(profile.select.sinks, tokens - newest);
  }
  if (job.options.keep_sets) job.out.kept = std::move(kept);
  return {};
}

// The target's own choices while it runs dense: not charged to the configuration.
Status Runner::record(Job& job, KeptByLayer& sets) {
  const std::unique_ptr<Selector> recorder = recording_selector(sets, /*dense=*/true);
  TOKENSIEVE_RETURN_IF_ERROR(plugin_.configure(TOKENSIEVE_GGML_SPARSE, &job.config.profile,
                                               hook_of(recorder.get(), true, true)));
  TOKENSIEVE_RETURN_IF_ERROR(read(job, job.prompt(), {0, 2}));
  job.context->clear();
  job.position = 0;
  job.out.result.prefill_ms = 0;
  return {};
}

Status Runner::prefill_with_window(Job& job) {
  TOKENSIEVE_RETURN_IF_ERROR(start(job));
  const Resolved resolved = resolve(job.config, static_cast<int64_t>(job.input.prompt.size()));
  TOKENSIEVE_RETURN_IF_ERROR(
      plugin_.configure(TOKENSIEVE_GGML_SPARSE, &resolved.profile,
                        {.always_sparse = true, .whole_prompts = true}));
  const auto windowed =
      job.prompt().first(job.prompt().size() - static_cast<size_t>(resolved.dense_rows));
  TOKENSIEVE_RETURN_IF_ERROR(read(job, windowed, {0, 2}));
  add_layers(plugin_.stats(), job.out.result);
  TOKENSIEVE_RETURN_IF_ERROR(read(job, job.prompt().subspan(windowed.size()), {1, 2}));
  // The rows after these see everything.
  const double all = causal_pairs(static_cast<double>(job.prompt().size()));
  const double before = causal_pairs(static_cast<double>(windowed.size()));
  for (LayerResult& layer : job.out.result.layers) {
    layer.work = (layer.work * before + all - before) / all;
  }
  summarize(job.out.result);
  return {};
}

// Layers up to the filter read everything; its choice is then a prompt of its own.
Status Runner::prefill_evicted(Job& job) {
  TOKENSIEVE_RETURN_IF_ERROR(start(job));
  Profile profile = job.config.profile;
  profile.sparse_layers = {job.config.filter_layer};
  profile.layer_select.clear();
  profile.select.protect_first = std::max(profile.select.protect_first, profile.select.sinks);
  KeptByLayer kept;
  const std::unique_ptr<Selector> filter =
      recording_selector(kept, /*dense=*/true, [&](int32_t) { job.context->stop(); });
  TOKENSIEVE_RETURN_IF_ERROR(
      plugin_.configure(TOKENSIEVE_GGML_SPARSE, &profile, hook_of(filter.get(), true, true)));
  const Status filtered = read(job, job.prompt(), {0, 2});
  std::vector<LayerStats> first_pass = plugin_.stats();
  TOKENSIEVE_RETURN_IF_ERROR(run_densely(job));
  if (cli::interrupted() || kept.empty()) {  // too short to choose: the whole prompt was read
    TOKENSIEVE_RETURN_IF_ERROR(filtered);
    add_layers(first_pass, job.out.result);
    summarize(job.out.result);
    return {};
  }
  Tokens rest;
  for (const int32_t token : kept.begin()->second.sets.front()) {
    rest.push_back(job.input.prompt[static_cast<size_t>(token)]);
  }
  TOKENSIEVE_RETURN_IF_ERROR(prefill_again(job, rest, std::move(first_pass)));
  if (job.options.keep_sets) job.out.kept = std::move(kept);
  return {};
}

Status Runner::prefill_again(Job& job, const Tokens& rest, std::vector<LayerStats> first_pass) {
  job.context->clear();
  job.position = 0;
  TOKENSIEVE_RETURN_IF_ERROR(read(job, rest, {1, 2}));
  const auto all = static_cast<double>(job.input.prompt.size());
  const auto some = static_cast<double>(rest.size());
  CaseResult& result = job.out.result;
  for (int32_t l = 0; l < model_.num_layers(); ++l) {
    const double filtering = l <= job.config.filter_layer ? 1 : 0;
    result.layers.push_back({.layer = l,
                             .keep_ratio = some / all,
                             .work = causal_pairs(some) / causal_pairs(all) + filtering,
                             .reason = ""});
  }
  for (const auto& pass : {std::move(first_pass), plugin_.stats()}) {
    for (const LayerStats& layer : pass) {
      if (layer.layer < 0 || layer.layer >= model_.num_layers()) continue;
      result.layers[static_cast<size_t>(layer.layer)].attention_ms += layer.attention_ms;
    }
  }
  summarize(result);
  return {};
}

}  // namespace tokensieve::eval
