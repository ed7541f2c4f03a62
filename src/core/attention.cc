// run and its single stages: validate, then hand over to the plan's backend.
#include "tokensieve/attention.h"

#include "core/backend_table.h"
#include "core/validate.h"

namespace tokensieve {
namespace {

Result<const BackendOps*> ops_of(const Plan& plan) {
  const BackendOps* ops = backend_ops(plan.options.backend);
  if (ops != nullptr && plan.shape.seqlen_kv > 0) return ops;
  return Status::error(StatusCode::kInvalidArgument,
                       "the plan is not one that make_plan returned; call make_plan");
}

Status needs_selection(const Plan& plan, const char* call) {
  if (plan.path == Path::kSparse) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "%s needs a sparse plan; this one is dense: %s", call,
                       dense_reason_text(plan.reason));
}

}  // namespace

Status run(const Plan& plan, const AttentionInputs& inputs, const AttentionOutputs& outputs,
           std::span<std::byte> workspace, const RunOptions& options) {
  const Result<const BackendOps*> ops = ops_of(plan);
  if (!ops.ok()) return ops.status();
  TOKENSIEVE_RETURN_IF_ERROR(validate_run(plan, inputs, outputs, workspace, options));
  return (*ops)->run(plan, inputs, outputs, workspace, options);
}

Status select_tokens(const Plan& plan, const AttentionInputs& inputs, const KeepSet& keep,
                     std::span<std::byte> workspace, const RunOptions& options) {
  const Result<const BackendOps*> ops = ops_of(plan);
  if (!ops.ok()) return ops.status();
  TOKENSIEVE_RETURN_IF_ERROR(needs_selection(plan, "select_tokens"));
  TOKENSIEVE_RETURN_IF_ERROR(validate_select_tokens(plan, inputs, keep, workspace, options));
  return (*ops)->select_tokens(plan, inputs, keep, workspace, options);
}

Status compact(const Plan& plan, const TensorView& x, const KeepSet& keep,
               const TensorView& compacted, const RunOptions& options) {
  const Result<const BackendOps*> ops = ops_of(plan);
  if (!ops.ok()) return ops.status();
  TOKENSIEVE_RETURN_IF_ERROR(needs_selection(plan, "compact"));
  TOKENSIEVE_RETURN_IF_ERROR(validate_compact(plan, x, keep, compacted));
  return (*ops)->compact(plan, x, keep, compacted, options);
}

Status scatter(const Plan& plan, const TensorView& compacted, const KeepSet& keep,
               const TensorView& out, const RunOptions& options) {
  const Result<const BackendOps*> ops = ops_of(plan);
  if (!ops.ok()) return ops.status();
  TOKENSIEVE_RETURN_IF_ERROR(needs_selection(plan, "scatter"));
  TOKENSIEVE_RETURN_IF_ERROR(validate_scatter(plan, compacted, keep, out));
  return (*ops)->scatter(plan, compacted, keep, out, options);
}

}  // namespace tokensieve
