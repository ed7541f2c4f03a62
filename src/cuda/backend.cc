// The CUDA backend's entries in the backend table.
//
// Nothing here waits for the device, allocates device memory or reads it; read_report (report.h)
// does.
#include <cuda_runtime_api.h>

#include "core/backend_table.h"
#include "core/plan.h"
#include "core/validate_parts.h"
#include "cuda/blocks/plan.h"
#include "cuda/call.h"
#include "cuda/checks.h"
#include "cuda/layout.h"
#include "cuda/report.h"
#include "cuda/rows/rows.h"

namespace tokensieve {
namespace cuda {
namespace {

bool cancelled(const RunOptions& options) {
  return options.should_cancel != nullptr && options.should_cancel(options.cancel_context);
}

bool usable() { return current_device().ok(); }

Status prepare(Plan& plan) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  TOKENSIEVE_RETURN_IF_ERROR(check_plan(plan, *device->arch));
  plan.options.isa = Isa::kAuto;
  plan.workspace = make_layout(plan, device->num_multiprocessors, nullptr).bytes;
  return {};
}

Status run(const Plan& plan, const AttentionInputs& in, const AttentionOutputs& out,
           std::span<std::byte> workspace, const RunOptions& options) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  TOKENSIEVE_RETURN_IF_ERROR(check_inputs(in));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("v", in.v));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("out", out.out));
  Layout layout;
  TOKENSIEVE_RETURN_IF_ERROR(lay_out(plan, device->num_multiprocessors, workspace, layout));
  if (cancelled(options)) return Status::error(StatusCode::kCancelled, "cancelled by the caller");
  Call call(plan, in, layout, *device, options.stream);
  TOKENSIEVE_RETURN_IF_ERROR(call.keep_lengths());
  if (plan.path == Path::kSparse) {
    const Selection selection = call.own_selection();
    if (in.keep.indices != nullptr) {
      TOKENSIEVE_RETURN_IF_ERROR(check_keep(in.keep));
      TOKENSIEVE_RETURN_IF_ERROR(call.take_given(selection));
    } else {
      TOKENSIEVE_RETURN_IF_ERROR(call.score());
      TOKENSIEVE_RETURN_IF_ERROR(call.gather_scores(options));
      TOKENSIEVE_RETURN_IF_ERROR(call.select(selection, nullptr));
    }
    TOKENSIEVE_RETURN_IF_ERROR(call.compact(selection));
    TOKENSIEVE_RETURN_IF_ERROR(call.masks(selection));
    TOKENSIEVE_RETURN_IF_ERROR(call.attend(out, selection));
  } else {
    TOKENSIEVE_RETURN_IF_ERROR(call.masks({}));
    TOKENSIEVE_RETURN_IF_ERROR(call.attend_dense(out));
  }
  if (options.report != nullptr) *options.report = early_report(plan);
  return {};
}

Status score_op(const Plan& plan, const AttentionInputs& in, float* token_score,
                std::span<std::byte> workspace, const RunOptions& options) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  TOKENSIEVE_RETURN_IF_ERROR(check_inputs(in));
  Layout layout;
  TOKENSIEVE_RETURN_IF_ERROR(lay_out(plan, device->num_multiprocessors, workspace, layout));
  Call call(plan, in, layout, *device, options.stream);
  TOKENSIEVE_RETURN_IF_ERROR(call.score());
  const size_t row = static_cast<size_t>(plan.prefix_len) * sizeof(float);
  const int64_t heads = plan.shape.num_q_heads;
  for (int64_t b = 0; b < plan.shape.batch; ++b) {
    TOKENSIEVE_RETURN_IF_ERROR(
        launched("copy of scores",
                 cudaMemcpy2DAsync(token_score + b * heads * plan.prefix_len, row,
                                   call.own_scores() + b * layer_heads(plan) * layout.prefix_stride,
                                   static_cast<size_t>(layout.prefix_stride) * sizeof(float), row,
                                   static_cast<size_t>(heads), cudaMemcpyDeviceToDevice,
                                   static_cast<cudaStream_t>(options.stream))));
  }
  return {};
}

Status select_tokens(const Plan& plan, const AttentionInputs& in, const KeepSet& keep,
                     std::span<std::byte> workspace, const RunOptions& options) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  TOKENSIEVE_RETURN_IF_ERROR(check_inputs(in));
  TOKENSIEVE_RETURN_IF_ERROR(check_keep(keep));
  Layout layout;
  TOKENSIEVE_RETURN_IF_ERROR(lay_out(plan, device->num_multiprocessors, workspace, layout));
  if (cancelled(options)) return Status::error(StatusCode::kCancelled, "cancelled by the caller");
  Call call(plan, in, layout, *device, options.stream);
  Selection selection = call.own_selection();
  selection.indices = keep.indices;
  selection.capacity = static_cast<int32_t>(keep.capacity);
  TOKENSIEVE_RETURN_IF_ERROR(call.score());
  TOKENSIEVE_RETURN_IF_ERROR(call.gather_scores(options));
  TOKENSIEVE_RETURN_IF_ERROR(call.select(selection, keep.count));
  TOKENSIEVE_RETURN_IF_ERROR(call.no_masks());
  if (options.report != nullptr) *options.report = early_report(plan);
  return {};
}

Status estimate_blocks(const Plan& plan, const AttentionInputs& in, const BlockMask& mask,
                       std::span<std::byte> workspace, const RunOptions& options) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  TOKENSIEVE_RETURN_IF_ERROR(check_inputs(in));
  TOKENSIEVE_RETURN_IF_ERROR(check_keep(in.keep));
  Layout layout;
  TOKENSIEVE_RETURN_IF_ERROR(lay_out(plan, device->num_multiprocessors, workspace, layout));
  if (cancelled(options)) return Status::error(StatusCode::kCancelled, "cancelled by the caller");
  AttentionInputs without_v = in;
  without_v.v = in.k;  // compact moves both
  Call call(plan, without_v, layout, *device, options.stream);
  Selection selection = {};
  if (plan.path == Path::kSparse) {
    selection = call.own_selection();
    TOKENSIEVE_RETURN_IF_ERROR(call.take_given(selection));
    if (estimates(plan)) TOKENSIEVE_RETURN_IF_ERROR(call.compact(selection));
  }
  TOKENSIEVE_RETURN_IF_ERROR(call.masks(selection));
  if (options.report != nullptr) *options.report = early_report(plan);
  return launched("copy of block masks",
                  cudaMemcpyAsync(mask.bits, layout.block_bits, mask_bytes(plan),
                                  cudaMemcpyDeviceToDevice,
                                  static_cast<cudaStream_t>(options.stream)));
}

// compact and scatter need no more of a selection.
Selection kept_rows(const Plan& plan, const KeepSet& keep) {
  Selection selection = {};
  selection.indices = keep.indices;
  selection.num_sets = plan.num_sets;
  selection.capacity = static_cast<int32_t>(keep.capacity);
  return selection;
}

Status compact_op(const Plan& plan, const TensorView& x, const KeepSet& keep,
                  const TensorView& compacted, const RunOptions& options) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("x", x));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("compacted", compacted));
  TOKENSIEVE_RETURN_IF_ERROR(check_keep(keep));
  return launched("compact",
                  gather_rows(sequences_of(plan, {}), kept_rows(plan, keep), keep.count,
                              tensor_of(x), static_cast<int>(x.shape[2]), tensor_of(compacted),
                              static_cast<int>(compacted.shape[2]), plan.shape.head_dim * 2,
                              static_cast<cudaStream_t>(options.stream)));
}

Status scatter_op(const Plan& plan, const TensorView& compacted, const KeepSet& keep,
                  const TensorView& out, const RunOptions& options) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("compacted", compacted));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("out", out));
  TOKENSIEVE_RETURN_IF_ERROR(check_keep(keep));
  return launched("scatter",
                  scatter_rows(sequences_of(plan, {}), kept_rows(plan, keep), keep.count,
                               tensor_of(compacted), tensor_of(out), static_cast<int>(out.shape[2]),
                               plan.shape.head_dim * 2, static_cast<cudaStream_t>(options.stream)));
}
}  // namespace
}  // namespace cuda

extern const BackendOps kCudaOps;
const BackendOps kCudaOps = {
    .id = Backend::kCuda,
    .usable = cuda::usable,
    .device_memory = true,
    .packed = true,
    .prepare = cuda::prepare,
    .run = cuda::run,
    .score = cuda::score_op,
    .select_tokens = cuda::select_tokens,
    .compact = cuda::compact_op,
    .scatter = cuda::scatter_op,
    .estimate_blocks = cuda::estimate_blocks,
    .read_report = cuda::read_report,
};

}  // namespace tokensieve
