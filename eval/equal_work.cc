#include "eval/equal_work.h"

#include <algorithm>
#include <cmath>

#include "tokensieve/attention.h"

namespace tokensieve::eval {
namespace {

Result<Plan> plan_of(const ModelFingerprint& model, SelectConfig select, int64_t tokens) {
  select.dense_policy = DensePolicy::kNever;
  return make_plan({.seqlen_q = tokens,
                    .seqlen_kv = tokens,
                    .num_q_heads = model.num_q_heads,
                    .num_kv_heads = model.num_kv_heads,
                    .head_dim = model.head_dim},
                   select, {.backend = Backend::kRef});
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
    sum += layer_work(profile.fingerprint, select, tokens);
  }
  return profile.sparse_layers.empty() ? 1
                                       : sum / static_cast<double>(profile.sparse_layers.size());
}

int64_t dense_rows(const SelectConfig& select, int64_t tokens) {
  return std::min<int64_t>(select.obs_window, tokens - 1);
}

// Of a layer whose rows see a window, the last ones everything.
double window_work(const ModelFingerprint& model, const SelectConfig& select, int64_t tokens) {
  const int64_t windowed = tokens - dense_rows(select, tokens);
  const double all = causal_pairs(static_cast<double>(tokens));
  const double before = causal_pairs(static_cast<double>(windowed));
  return (layer_work(model, select, windowed) * before + all - before) / all;
}

int32_t equal_window(const ModelFingerprint& model, SelectConfig select, double work,
                     int64_t tokens) {
  const auto work_at = [&](int64_t blocks) {
    select.local_window = static_cast<int32_t>(blocks) * kLocalBlock;
    return window_work(model, select, tokens);
  };
  const int64_t most = std::max<int64_t>(1, tokens / kLocalBlock);
  const int64_t blocks = least_with(1, most, work, work_at);
  const bool below_is_nearer =
      blocks > 1 && work - work_at(blocks - 1) < work_at(blocks) - work;
  return static_cast<int32_t>(blocks - below_is_nearer) * kLocalBlock;
}

int64_t equal_count(const ModelFingerprint& model, SelectConfig select, double work,
                    int64_t tokens) {
  select.keep_count = 1;
  const Result<Plan> plan = plan_of(model, select, tokens);
  if (!plan.ok() || plan->path == Path::kDense) return 1;
  return least_with(1, plan->prefix_len, work,
                    [&](int64_t count) { return work_of(*plan, count); });
}

}  // namespace

double layer_work(const ModelFingerprint& model, const SelectConfig& select, int64_t tokens) {
  const Result<Plan> plan = plan_of(model, select, tokens);
  if (!plan.ok()) return 1;
  const int64_t keep = planned_keep(*plan);
  return keep < 0 ? 1 : work_of(*plan, keep);
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
    select.keep_count = equal_count(model, select, beside_work(config, tokens), tokens);
    return resolved;
  }
  // One token of the prefix is kept, a sink: rows see sinks and a window, nothing is chosen.
  select.keep_count = select.protect_first = 1;
  select.fill = Fill::kLocal;
  select.share = Share::kLayer;
  if (config.equal_work) {
    select.local_window = equal_window(model, select, beside_work(config, tokens), tokens);
  }
  resolved.dense_rows = dense_rows(select, tokens);
  resolved.work = window_work(model, select, tokens);
  return resolved;
}

}  // namespace tokensieve::eval
