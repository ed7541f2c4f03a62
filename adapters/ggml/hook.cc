#include "hook.h"

namespace tokensieve::ggml {

Status SelectHook::ask(const HookCall& call, const Settings& settings, KeepSet& keep,
                       DenseReason& reason) {
  const Plan& plan = call.plan;
  const int64_t capacity = plan.keep_capacity();
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
  const bool sparse = settings.select(&selection, settings.select_user) != 0;
  count_ = sparse ? selection.count : plan.shape.seqlen_kv;
  return {};
}

}  // namespace tokensieve::ggml
