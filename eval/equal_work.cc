#include "eval/equal_work.h"

#include <algorithm>
#include <cmath>

#include "tokensieve/attention.h"

namespace tokensieve::eval {
namespace {

Result<Plan> plan_of(const ModelFingerprint& model, SelectConfig select, int64_t queries,
                     int64_t tokens) {
  select.dense_policy = DensePolicy::kNever;
  return make_plan({.seqlen_q = queries,
                    .seqlen_kv = tokens,
                    .num_q_heads = model.num_q_heads,
                    .num_kv_heads = model.num_kv_heads,
                    .head_dim = model.head_dim},
                   select, {.backend = Backend::kRef});
}

// Computed / causal pairs of one call; 1 if it runs dense.
double call_work(const ModelFingerprint& model, const SelectConfig& select, int64_t queries,
                 int64_t tokens) {
  const Result<Plan> plan = plan_of(model, select, queries, tokens);
  if (!plan.ok()) return 1;
  const int64_t keep = planned_keep(*plan);
  return keep < 0 ? 1 : work_of(*plan, keep);
}

// The same of a chunk, which the policy of all engines may run dense. Zero fill leaves a first
// chunk dense, too (adapters/ggml/policy.cc).
double chunk_work(const ModelFingerprint& model, const SelectConfig& select, int64_t queries,
                  int64_t tokens) {
  if (queries == tokens && select.fill == Fill::kZero) return 1;
  Profile profile;
  profile.sparse_layers = {1};
  profile.select = select;
  profile.min_tokens = 0;
  const LayerChoice choice =
      choose(profile, {.layer = 1, .seqlen_q = queries, .seqlen_kv = tokens});
  if (choice.reason != DenseReason::kNone) return 1;
  return call_work(model, choice.select, queries, tokens);
}

// The least value in [least, most] for which `work` reaches `wanted`; it grows.
template <typename Work>
int64_t least_with(int64_t least, int64_t most, double wanted, const Work& work) {
  while (least < most) {
    const int64_t middle = least + (most - least) / 2;
    if (work(middle) < wanted) {
      least = middle + 1;
    } else {
      most = middle;
    }
  }
  return least;
}

// The mean over the sparse layers of the selection that a baseline stands beside.
double beside_work(const Config& config, int64_t tokens) {
  const Profile& profile = config.profile;
  double sum = 0;
  for (const int32_t layer : profile.sparse_layers) {
    SelectConfig select = profile.select_of(layer);
    select.fill = config.beside_fill;
    sum += layer_work(profile.fingerprint, select, tokens, config.beside_chunk);
  }
  return profile.sparse_layers.empty() ? 1
                                       : sum / static_cast<double>(profile.sparse_layers.size());
}

int64_t dense_rows(const SelectConfig& select, int64_t tokens) {
  return std::min<int64_t>(select.obs_window, tokens - 1);
}

// Of a layer whose rows see a window, the last ones everything.
double window_work(const ModelFingerprint& model, const SelectConfig& select, int64_t tokens,
                   int64_t chunk) {
  const int64_t windowed = tokens - dense_rows(select, tokens);
  const double all = causal_pairs(static_cast<double>(tokens));
  const double before = causal_pairs(static_cast<double>(windowed));
  return (layer_work(model, select, windowed, chunk) * before + all - before) / all;
}

int32_t equal_window(const ModelFingerprint& model, SelectConfig select, double work,
                     int64_t tokens, int64_t chunk) {
  const auto work_at = [&](int64_t blocks) {
    select.local_window = static_cast<int32_t>(blocks) * kLocalBlock;
    return window_work(model, select, tokens, chunk);
  };
  const int64_t most = std::max<int64_t>(1, tokens / kLocalBlock);
  const int64_t blocks = least_with(1, most, work, work_at);
  const bool below_is_nearer =
      blocks > 1 && work - work_at(blocks - 1) < work_at(blocks) - work;
  return static_cast<int32_t>(blocks - below_is_nearer) * kLocalBlock;
}

int64_t equal_count(const ModelFingerprint& model, SelectConfig select, double work,
                    int64_t tokens, int64_t chunk) {
  select.keep_count = 1;
  const Result<Plan> plan = plan_of(model, select, tokens, tokens);
  if (!plan.ok() || plan->path == Path::kDense) return 1;
  return least_with(1, plan->prefix_len, work, [&](int64_t count) {
    select.keep_count = count;
    return layer_work(model, select, tokens, chunk);
  });
}

}  // namespace

double layer_work(const ModelFingerprint& model, const SelectConfig& select, int64_t tokens,
                  int64_t chunk) {
  if (chunk == 0 || chunk >= tokens) return call_work(model, select, tokens, tokens);
  double pairs = 0;
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t end = std::min(tokens, begin + chunk);
    const double all =
        causal_pairs(static_cast<double>(end)) - causal_pairs(static_cast<double>(begin));
    pairs += all * chunk_work(model, select, end - begin, end);
  }
  return pairs / causal_pairs(static_cast<double>(tokens));
}

Resolved resolve(const Config& config, int64_t tokens) {
  Resolved resolved{.profile = config.profile, .work = {}};
  const bool windowed = config.method->prefill == Prefill::kWindow;
  if (!windowed && !config.equal_work) return resolved;
  SelectConfig& select = resolved.profile.select;
  const ModelFingerprint& model = resolved.profile.fingerprint;
  resolved.profile.layer_select.clear();
  select.budget = BudgetPolicy::kKeepCount;
  select.min_keep = 0;
  if (!windowed) {
    const double work = beside_work(config, tokens);
    select.keep_count = equal_count(model, select, work, tokens, config.chunk);
    return resolved;
  }
  // One token of the prefix is kept, a sink: rows see sinks and a window, nothing is chosen.
  select.keep_count = select.protect_first = 1;
  select.fill = Fill::kLocal;
  select.share = Share::kLayer;
  if (config.equal_work) {
    const double work = beside_work(config, tokens);
    select.local_window = equal_window(model, select, work, tokens, config.chunk);
  }
  resolved.dense_rows = dense_rows(select, tokens);
  resolved.work = window_work(model, select, tokens, config.chunk);
  return resolved;
}

}  // namespace tokensieve::eval
