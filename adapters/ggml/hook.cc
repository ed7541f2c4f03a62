#include "hook.h"

#include <algorithm>
#include <new>

#include "host_api.h"

namespace tokensieve::ggml {
namespace {

int64_t newest(const Plan& plan) { return plan.shape.seqlen_kv - plan.prefix_len; }

// Ascending tokens that end with every token after the prefix.
Status check_candidates(const Plan& plan, std::span<const int32_t> candidates, int64_t keep) {
  const auto count = static_cast<int64_t>(candidates.size());
  int32_t before = -1;
  for (const int32_t token : candidates) {
    if (token <= before || token >= plan.shape.seqlen_kv) {
      return Status::error(StatusCode::kInvalidArgument,
                           "candidate %d after %d; allowed: ascending tokens below %lld", token,
                           before, static_cast<long long>(plan.shape.seqlen_kv));
    }
    before = token;
  }
  const int64_t after = newest(plan);
  if (keep < after || keep > count || keep > plan.max_keep + after ||
      candidates[static_cast<size_t>(count - after)] != plan.prefix_len) {
    return Status::error(StatusCode::kInvalidArgument,
                         "keep %lld of %lld candidates; allowed: at most %lld, and the %lld newest "
                         "tokens must be among them",
                         static_cast<long long>(keep), static_cast<long long>(count),
                         static_cast<long long>(plan.max_keep + after),
                         static_cast<long long>(after));
  }
  return {};
}

}  // namespace

Status SelectHook::ask(const HookCall& call, const Settings& settings, KeepSet& keep,
                       DenseReason& reason) {
  const Plan& plan = call.plan;
  call_ = &call;
  const int64_t capacity = plan.max_keep + newest(plan);
  kept_.resize(static_cast<size_t>(capacity * plan.num_sets));
  keep = {.indices = kept_.data(), .capacity = capacity, .count = &count_};
  RunReport chosen;
  RunOptions options = call.options;
  options.report = &chosen;
  TOKENSIEVE_RETURN_IF_ERROR(
      select_tokens(plan, call.inputs, keep, call.workspace(workspace_bytes(plan)), options));
  reason = chosen.reason;
  if (chosen.path == Path::kDense) return {};

  tokensieve_ggml_selection selection = {};
  selection.struct_size = sizeof(selection);
  selection.layer = call.layer;
  selection.tokens = plan.shape.seqlen_kv;
  selection.queries = plan.shape.seqlen_q;
  selection.prefix = plan.prefix_len;
  selection.sets = plan.num_sets;
  selection.obs_window = plan.select.obs_window;
  selection.capacity = capacity;
  selection.count = count_;
  selection.kept = kept_.data();
  selection.choose_among = choose_among;
  selection.plugin = this;
  const bool sparse = settings.select(&selection, settings.select_user) != 0;
  count_ = sparse ? selection.count : plan.shape.seqlen_kv;
  return {};
}

int SelectHook::choose_among(tokensieve_ggml_selection* selection, const int32_t* candidates,
                             int64_t num_candidates, int64_t keep) try {
  auto& hook = *static_cast<SelectHook*>(selection->plugin);
  const Status status =
      hook.choose(*selection, {candidates, static_cast<size_t>(num_candidates)}, keep);
  if (status.ok()) return 0;
  log_line(GGML_LOG_LEVEL_WARN, "tokensieve: layer %d: choose_among: %s", selection->layer,
           status.message());
  return -1;
} catch (const std::bad_alloc&) {
  return -1;
}

Status SelectHook::choose(tokensieve_ggml_selection& selection,
                          std::span<const int32_t> candidates, int64_t keep) {
  const Plan& plan = call_->plan;
  if (plan.select.queries != Queries::kKept) {
    return Status::error(StatusCode::kUnsupported, "only for whole prompts");
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_candidates(plan, candidates, keep));
  const auto count = static_cast<int64_t>(candidates.size());
  if (keep == count) {
    for (int32_t set = 0; set < plan.num_sets; ++set) {
      std::copy(candidates.begin(), candidates.end(), selection.kept + set * selection.capacity);
    }
    selection.count = keep;
    return {};
  }

  // The same attention, as if the prompt were the candidates alone.
  AttentionShape shape = plan.shape;
  shape.seqlen_kv = count;
  shape.seqlen_q = plan.select.obs_window;
  SelectConfig select = plan.select;
  select.budget = BudgetPolicy::kKeepCount;
  select.keep_count = std::max<int64_t>(1, keep - newest(plan));
  select.min_keep = 0;
  select.min_drop = 0;
  select.dense_policy = DensePolicy::kNever;
  const Result<Plan> among = make_plan(shape, select, plan.options);
  if (!among.ok()) return among.status();

  AttentionInputs inputs = call_->inputs;
  inputs.q.shape[1] = shape.seqlen_q;
  inputs.q.data = static_cast<char*>(inputs.q.data) +
                  (plan.shape.seqlen_q - shape.seqlen_q) * inputs.q.strides[1] *
                      static_cast<int64_t>(dtype_size(inputs.q.dtype));
  rows_.assign(candidates.begin(), candidates.end());
  if (inputs.kv_indices != nullptr) {
    for (int32_t& row : rows_) row = inputs.kv_indices[row];
  }
  inputs.kv_indices = rows_.data();
  const int64_t capacity = among->max_keep + newest(*among);
  chosen_.resize(static_cast<size_t>(capacity * among->num_sets));
  int64_t chosen_count = 0;
  TOKENSIEVE_RETURN_IF_ERROR(
      select_tokens(*among, inputs,
                    {.indices = chosen_.data(), .capacity = capacity, .count = &chosen_count},
                    call_->workspace(workspace_bytes(*among)), call_->options));
  if (chosen_count == count) {
    return Status::error(StatusCode::kInvalidArgument, "scores are not finite");
  }
  for (int32_t set = 0; set < among->num_sets; ++set) {
    const int32_t* from = chosen_.data() + set * capacity;
    std::transform(from, from + chosen_count, selection.kept + set * selection.capacity,
                   [&](int32_t index) { return candidates[static_cast<size_t>(index)]; });
  }
  selection.count = chosen_count;
  return {};
}

}  // namespace tokensieve::ggml
