// run and its single stages: validate, then hand over to the plan's backend.
#include "tokensieve/attention.h"

#include "core/backend_table.h"
#include "core/packed.h"
#include "core/validate.h"
#include "tokensieve/names.h"

namespace tokensieve {
namespace {

Result<const BackendOps*> ops_of(const Plan& plan) {
  const BackendOps* ops = backend_ops(plan.options.backend);
  if (ops != nullptr && plan.shape.seqlen_kv > 0) return ops;
  return Status::error(StatusCode::kInvalidArgument,
                       "the plan is not one that make_plan returned; call make_plan");
}

Status no_packed(const char* call) {
  return Status::error(StatusCode::kUnsupported,
                       "%s does not take packed plans; call it for every sequence with a plan of "
                       "its own",
                       call);
}

Status needs_selection(const Plan& plan, const char* call) {
  if (plan.shape.packed) return no_packed(call);
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
  const bool one_by_one = plan.shape.packed && !(*ops)->packed;
  const Status status =
      (one_by_one ? run_packed : (*ops)->run)(plan, inputs, outputs, workspace, options);
  if (options.report != nullptr) {
    options.report->products = plan.options.products;
    options.report->products_reason = plan.products_reason;
  }
  return status;
}

Status read_report(const Plan& plan, std::span<std::byte> workspace, void* stream,
                   RunReport* report) {
  const Result<const BackendOps*> ops = ops_of(plan);
  if (!ops.ok()) return ops.status();
  if ((*ops)->read_report == nullptr) {
    return Status::error(StatusCode::kUnsupported,
                         "read_report is for backend cuda; with %s, RunOptions::report is complete",
                         backend_name(plan.options.backend));
  }
  if (report == nullptr || workspace.size() < plan.workspace) {
    return Status::error(StatusCode::kInvalidArgument,
                         "read_report needs a report and the workspace of the run (%zu bytes)",
                         plan.workspace);
  }
  return (*ops)->read_report(plan, workspace, stream, *report);
}

Status select_tokens(const Plan& plan, const AttentionInputs& inputs, const KeepSet& keep,
                     std::span<std::byte> workspace, const RunOptions& options) {
  const Result<const BackendOps*> ops = ops_of(plan);
  if (!ops.ok()) return ops.status();
  TOKENSIEVE_RETURN_IF_ERROR(needs_selection(plan, "select_tokens"));
  TOKENSIEVE_RETURN_IF_ERROR(validate_select_tokens(plan, inputs, keep, workspace, options));
  return (*ops)->select_tokens(plan, inputs, keep, workspace, options);
}

Status estimate_blocks(const Plan& plan, const AttentionInputs& inputs, const BlockMask& mask,
                       std::span<std::byte> workspace, const RunOptions& options) {
  const Result<const BackendOps*> ops = ops_of(plan);
  if (!ops.ok()) return ops.status();
  if (plan.shape.packed) return no_packed("estimate_blocks");
  const BlockPattern pattern = plan.blocks.pattern;
  if (pattern == BlockPattern::kNone || pattern == BlockPattern::kGiven) {
    return Status::error(StatusCode::kInvalidArgument,
                         "estimate_blocks needs a plan that estimates a block mask; this one's "
                         "pattern is %s",
                         name_of(pattern));
  }
  TOKENSIEVE_RETURN_IF_ERROR(validate_estimate(plan, inputs, mask, workspace, options));
  return (*ops)->estimate_blocks(plan, inputs, mask, workspace, options);
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
