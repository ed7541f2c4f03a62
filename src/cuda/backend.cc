// The CUDA backend's entries in the backend table.
//
// Nothing here waits for the device, allocates device memory or reads it, except read_report.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/backend_table.h"
#include "core/plan.h"
#include "core/report.h"
#include "core/work.h"
#include "cuda/call.h"
#include "cuda/checks.h"
#include "cuda/layout.h"
#include "cuda/rows/rows.h"

namespace tokensieve {
namespace cuda {
namespace {

// The arena for this device; an error if the plan was made for a device that needs less.
Status lay_out(const Plan& plan, const Device& device, std::span<std::byte> workspace,
               Layout& layout) {
  layout = make_layout(plan, device.num_multiprocessors, workspace.data());
  if (layout.bytes <= plan.workspace) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "the plan was made with another device current (its workspace is %zu bytes, "
                       "this one needs %zu); make a plan for every kind of device",
                       plan.workspace, layout.bytes);
}

bool cancelled(const RunOptions& options) {
  return options.should_cancel != nullptr && options.should_cancel(options.cancel_context);
}

// What is known before the device has worked.
RunReport early_report(const Plan& plan) {
  RunReport report;
  report.path = plan.path;
  report.reason = plan.reason;
  if (plan.path == Path::kSparse || plan.shape.packed) {
    report.keep_count = -1;
    report.keep_ratio = report.work = std::numeric_limits<double>::quiet_NaN();
  } else {
    report.keep_count = plan.shape.batch * plan.shape.seqlen_kv;
    report.work = 1.0;
  }
  return report;
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
  TOKENSIEVE_RETURN_IF_ERROR(lay_out(plan, *device, workspace, layout));
  if (cancelled(options)) return Status::error(StatusCode::kCancelled, "cancelled by the caller");
  Call call(plan, in, layout, *device, options.stream);
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
    TOKENSIEVE_RETURN_IF_ERROR(call.keep_lengths());
    TOKENSIEVE_RETURN_IF_ERROR(call.compact(selection));
    TOKENSIEVE_RETURN_IF_ERROR(call.attend(out, selection));
  } else {
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
  TOKENSIEVE_RETURN_IF_ERROR(lay_out(plan, *device, workspace, layout));
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
  TOKENSIEVE_RETURN_IF_ERROR(lay_out(plan, *device, workspace, layout));
  if (cancelled(options)) return Status::error(StatusCode::kCancelled, "cancelled by the caller");
  Call call(plan, in, layout, *device, options.stream);
  Selection selection = call.own_selection();
  selection.indices = keep.indices;
  selection.capacity = static_cast<int32_t>(keep.capacity);
  TOKENSIEVE_RETURN_IF_ERROR(call.score());
  TOKENSIEVE_RETURN_IF_ERROR(call.gather_scores(options));
  TOKENSIEVE_RETURN_IF_ERROR(call.select(selection, keep.count));
  if (options.report != nullptr) *options.report = early_report(plan);
  return {};
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

// What a finished run of a sparse plan left in the workspace.
struct Left {
  std::vector<int32_t> count;       // [batch]
  std::vector<int32_t> cu_seqlens;  // packed: [2, batch + 1] of q, of kv
  std::vector<int64_t> far_pairs;   // local fill: [batch, num_sets]
};

template <typename T>
Status fetch(const T* from, int64_t size, std::vector<T>& to, cudaStream_t stream) {
  to.resize(static_cast<size_t>(size));
  return launched("read of counts", cudaMemcpyAsync(to.data(), from, to.size() * sizeof(T),
                                                    cudaMemcpyDeviceToHost, stream));
}

// Enqueues the reads.
Status fetch_left(const Plan& plan, const Layout& layout, cudaStream_t stream, Left& left) {
  const int64_t batch = plan.shape.batch;
  TOKENSIEVE_RETURN_IF_ERROR(fetch(layout.count, batch, left.count, stream));
  Sequences sequences = sequences_of(plan, {});
  if (plan.shape.packed) {
    sequences.cu_seqlens_q = layout.cu_seqlens;
    sequences.cu_seqlens_kv = layout.cu_seqlens + batch + 1;
    TOKENSIEVE_RETURN_IF_ERROR(
        fetch(layout.cu_seqlens, 2 * (batch + 1), left.cu_seqlens, stream));
  }
  if (!has_far_pairs(plan.select)) return {};
  const FarPairsParams params = {
      .sequences = sequences,
      .selection = own_selection(plan, layout),
      .local = {.window = plan.select.local_window, .sink_tokens = plan.select.sinks},
      .far_pairs = layout.far_pairs};
  TOKENSIEVE_RETURN_IF_ERROR(launched("count of pairs", count_far_pairs(params, stream)));
  return fetch(layout.far_pairs, batch * plan.num_sets, left.far_pairs, stream);
}

RunReport full_report(const Plan& plan, const Left& left) {
  ReportSum sum;
  for (size_t b = 0; b < left.count.size(); ++b) {
    Plan one = plan;
    if (plan.shape.packed) {
      const int32_t* q = &left.cu_seqlens[b];
      const int32_t* kv = q + left.count.size() + 1;
      if (q[1] == q[0]) continue;
      one.shape.seqlen_q = q[1] - q[0];
      one.shape.seqlen_kv = kv[1] - kv[0];
      one.prefix_len = one.shape.seqlen_kv - suffix_of(plan.select, one.shape.seqlen_q);
    }
    if (left.count[b] == one.shape.seqlen_kv) {
      sum.add_dense(one, DenseReason::kDecidedOnDevice);
      continue;
    }
    const int64_t keep = left.count[b] - one.suffix_len();
    int64_t far = 0;
    if (!left.far_pairs.empty()) {
      const auto sets = left.far_pairs.begin() + static_cast<int64_t>(b) * plan.num_sets;
      far = std::accumulate(sets, sets + plan.num_sets, int64_t{0});
    }
    sum.add_sparse(one, keep, counted_pairs(one, keep, far));
  }
  RunReport report;
  sum.finish(report);
  return report;
}

Status read_report(const Plan& plan, std::span<std::byte> workspace, void* stream,
                   RunReport& report) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  Layout layout;
  TOKENSIEVE_RETURN_IF_ERROR(lay_out(plan, *device, workspace, layout));
  const auto queue = static_cast<cudaStream_t>(stream);
  const bool sparse = plan.path == Path::kSparse;
  Left left;
  if (sparse) TOKENSIEVE_RETURN_IF_ERROR(fetch_left(plan, layout, queue, left));
  TOKENSIEVE_RETURN_IF_ERROR(launched("run", cudaStreamSynchronize(queue)));
  report = sparse ? full_report(plan, left) : early_report(plan);
  return {};
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
    .read_report = cuda::read_report,
};

}  // namespace tokensieve
