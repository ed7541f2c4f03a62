// The CUDA backend's entries in the backend table: plan checks, and which kernels a call enqueues.
//
// Nothing here waits for the device, allocates device memory or reads it, except read_report.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "core/backend_table.h"
#include "core/plan.h"
#include "cuda/checks.h"
#include "cuda/layout.h"
#include "cuda/sm90/attend/attend.h"
#include "cuda/stages/stages.h"
#include "cuda/tensor_map.h"

namespace tokensieve {
namespace cuda {
namespace {

// Each attend launch of a call has counters of its own: [next tile, finished CTAs].
enum TileCounter : int { kFirstPass = 0, kSecondPass = 2 };

Status launched(const char* stage, cudaError_t error) {
  if (error == cudaSuccess) return {};
  return Status::error(StatusCode::kInternal, "CUDA %s: %s (%s)", stage, cudaGetErrorName(error),
                       cudaGetErrorString(error));
}

Tensor tensor_of(const TensorView& view) {
  return {view.data, view.strides[0], view.strides[1], view.strides[2]};
}

// One call: what its launches share.
class Call {
 public:
  Call(const Plan& plan, const AttentionInputs& in, const Layout& layout, int num_multiprocessors,
       const RunOptions& options)
      : plan_(plan),
        in_(in),
        layout_(layout),
        num_multiprocessors_(num_multiprocessors),
        stream_(static_cast<cudaStream_t>(options.stream)) {}

  // Stages score, budget and select into `selection`; clears the tile counters.
  Status select(const Selection& selection, int64_t* public_count) {
    TOKENSIEVE_RETURN_IF_ERROR(score(layout_.token_score));
    SelectParams params = select_params(plan_);
    params.sequences = sequences();
    params.token_score = layout_.token_score;
    params.prefix_stride = layout_.prefix_stride;
    params.mean = layout_.mean;
    params.ranked = layout_.ranked;
    params.scratch = layout_.select_scratch;
    params.selection = selection;
    params.public_count = public_count;
    params.tile_counters = layout_.tile_counters;
    return launched("select", cuda::select(params, stream_));
  }

  Status score(float* token_score) {
    const AttentionShape& s = plan_.shape;
    CUtensorMap k_map;
    TOKENSIEVE_RETURN_IF_ERROR(map_of(in_.k, kScoreBox, k_map));
    const ScoreParams params = {.sequences = sequences(),
                                .heads = heads_of(plan_),
                                .softmax = softmax(),
                                .q = tensor_of(in_.q),
                                .obs_window = plan_.select.obs_window,
                                .suffix = static_cast<int32_t>(s.seqlen_kv - plan_.prefix_len),
                                .token_score = token_score,
                                .prefix_stride = layout_.prefix_stride,
                                .split_stats = layout_.split_stats,
                                .splits = layout_.splits};
    return launched("score", cuda::score(params, k_map, s.head_dim, bf16(), stream_));
  }

  // Stages compact, attend and scatter of a sparse plan.
  Status attend_selected(const AttentionOutputs& out, const Selection& selection) {
    TOKENSIEVE_RETURN_IF_ERROR(compact(selection));
    AttendParams params;
    TOKENSIEVE_RETURN_IF_ERROR(attend_params(out, selection, params));
    if (plan_.select.queries == Queries::kAll) {
      // The chunk against the kept past; then its newest rows against everything.
      TOKENSIEVE_RETURN_IF_ERROR(attend(params, Keys::kCausal, kFirstPass));
      params.selection = {};
      params.first_query =
          static_cast<int32_t>(plan_.shape.seqlen_q - plan_.select.obs_window);
      return attend(params, Keys::kCausal, kSecondPass);
    }
    if (plan_.select.fill == Fill::kZero) return attend(params, Keys::kCausal, kFirstPass);
    if (params.lse == nullptr) params.lse = layout_.lse;
    TOKENSIEVE_RETURN_IF_ERROR(attend(params, Keys::kWindow, kFirstPass));
    return attend(params, Keys::kLimited, kSecondPass);
  }

  Status attend_dense(const AttentionOutputs& out) {
    TOKENSIEVE_RETURN_IF_ERROR(
        launched("memset", cudaMemsetAsync(layout_.tile_counters, 0,
                                           kTileCounters * sizeof(int32_t), stream_)));
    AttendParams params;
    TOKENSIEVE_RETURN_IF_ERROR(attend_params(out, {}, params));
    return attend(params, Keys::kCausal, kFirstPass);
  }

  // The sequences' lengths, for read_report.
  Status keep_lengths() {
    if (!plan_.shape.packed) return {};
    const size_t bytes = static_cast<size_t>(plan_.shape.batch + 1) * sizeof(int32_t);
    return launched("copy of cu_seqlens_kv",
                    cudaMemcpyAsync(layout_.cu_seqlens_kv, in_.cu_seqlens_kv, bytes,
                                    cudaMemcpyDeviceToDevice, stream_));
  }

  Selection own_selection() const {
    return {.indices = layout_.indices,
            .mask = layout_.mask,
            .rank = layout_.rank,
            .count = layout_.count,
            .num_sets = plan_.num_sets,
            .capacity = layout_.capacity,
            .words = layout_.words};
  }

 private:
  static constexpr int kScoreBox = 64;  // rows of a TMA box

  bool bf16() const { return plan_.shape.dtype == DType::kBF16; }
  int attend_box() const { return plan_.shape.head_dim == 256 ? 64 : 128; }
  Sequences sequences() const { return sequences_of(plan_, in_); }
  Softmax softmax() const {
    return {plan_.shape.sm_scale, plan_.shape.softcap, in_.sink_logits};
  }

  Status map_of(const TensorView& x, int box_rows, CUtensorMap& map) const {
    return encode_map(tensor_of(x), bf16(), x.shape[0], x.shape[1], x.shape[2], x.shape[3],
                      box_rows, map);
  }

  // [batch, capacity, compact_heads, head_dim], the rows of a head adjacent.
  Tensor compacted(void* data) const {
    const int64_t dim = plan_.shape.head_dim;
    const int64_t head_stride = layout_.capacity * dim;
    return {data, layout_.compact_heads * head_stride, dim, head_stride};
  }

  Status compact(const Selection& selection) {
    const CompactParams params = {.sequences = sequences(),
                                  .selection = selection,
                                  .k = tensor_of(in_.k),
                                  .v = tensor_of(in_.v),
                                  .compact_k = compacted(layout_.compact_k),
                                  .compact_v = compacted(layout_.compact_v),
                                  .num_kv_heads = plan_.shape.num_kv_heads,
                                  .compact_heads = layout_.compact_heads,
                                  .row_bytes = plan_.shape.head_dim * 2};
    return launched("compact", cuda::compact(params, stream_));
  }

  Status attend_params(const AttentionOutputs& out, const Selection& selection,
                       AttendParams& params) const {
    const AttentionShape& s = plan_.shape;
    params = {};
    TOKENSIEVE_RETURN_IF_ERROR(map_of(in_.k, attend_box(), params.k_map));
    TOKENSIEVE_RETURN_IF_ERROR(map_of(in_.v, attend_box(), params.v_map));
    if (selection.indices != nullptr) {
      TOKENSIEVE_RETURN_IF_ERROR(compact_map(layout_.compact_k, params.compact_k_map));
      TOKENSIEVE_RETURN_IF_ERROR(compact_map(layout_.compact_v, params.compact_v_map));
    }
    params.sequences = sequences();
    params.heads = heads_of(plan_);
    params.softmax = softmax();
    params.q = tensor_of(in_.q);
    params.out = tensor_of(out.out);
    params.lse = out.lse;
    params.lse_head_stride = in_.q.shape[1];
    params.lse_batch_stride = s.num_q_heads * params.lse_head_stride;
    params.selection = selection;
    params.compact_heads = layout_.compact_heads;
    params.local_window = plan_.select.local_window;
    params.sinks = plan_.select.sinks;
    params.num_ctas = num_multiprocessors_;
    return {};
  }

  Status compact_map(void* data, CUtensorMap& map) const {
    return encode_map(compacted(data), bf16(), plan_.shape.batch, layout_.capacity,
                      layout_.compact_heads, plan_.shape.head_dim, attend_box(), map);
  }

  Status attend(AttendParams& params, Keys keys, TileCounter counter) {
    params.tile_counter = layout_.tile_counters + counter;
    return launched("attend",
                    sm90::attend(params, keys, plan_.shape.head_dim, bf16(), stream_));
  }

  const Plan& plan_;
  const AttentionInputs& in_;
  const Layout& layout_;
  int num_multiprocessors_;
  cudaStream_t stream_;
};

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
    report.keep_ratio = report.attention_pairs = std::numeric_limits<double>::quiet_NaN();
  } else {
    report.keep_count = plan.shape.batch * plan.shape.seqlen_kv;
    report.attention_pairs = 1.0;
  }
  return report;
}

bool usable() { return current_device().ok(); }

Status prepare(Plan& plan) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  TOKENSIEVE_RETURN_IF_ERROR(check_plan(plan));
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
  Call call(plan, in, layout, device->num_multiprocessors, options);
  if (plan.path == Path::kSparse) {
    const Selection selection = call.own_selection();
    TOKENSIEVE_RETURN_IF_ERROR(call.select(selection, nullptr));
    TOKENSIEVE_RETURN_IF_ERROR(call.keep_lengths());
    TOKENSIEVE_RETURN_IF_ERROR(call.attend_selected(out, selection));
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
  Call call(plan, in, layout, device->num_multiprocessors, options);
  TOKENSIEVE_RETURN_IF_ERROR(call.score(layout.token_score));
  const size_t row = static_cast<size_t>(plan.prefix_len) * sizeof(float);
  const size_t rows = static_cast<size_t>(plan.shape.batch * plan.shape.num_q_heads);
  return launched("copy of scores",
                  cudaMemcpy2DAsync(token_score, row, layout.token_score,
                                    static_cast<size_t>(layout.prefix_stride) * sizeof(float), row,
                                    rows, cudaMemcpyDeviceToDevice,
                                    static_cast<cudaStream_t>(options.stream)));
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
  Call call(plan, in, layout, device->num_multiprocessors, options);
  Selection selection = call.own_selection();
  selection.indices = keep.indices;
  selection.capacity = static_cast<int32_t>(keep.capacity);
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
                               tensor_of(compacted), tensor_of(out),
                               static_cast<int>(out.shape[2]), plan.shape.head_dim * 2,
                               static_cast<cudaStream_t>(options.stream)));
}

// Counts of a finished run.
RunReport full_report(const Plan& plan, const std::vector<int32_t>& count,
                      const std::vector<int32_t>& cu_seqlens_kv) {
  RunReport report;
  double tokens = 0.0, pairs = 0.0, all_pairs = 0.0;
  for (size_t b = 0; b < count.size(); ++b) {
    Plan one = plan;
    if (plan.shape.packed) {
      const int64_t suffix = plan.shape.seqlen_kv - plan.prefix_len;
      one.shape.seqlen_kv = cu_seqlens_kv[b + 1] - cu_seqlens_kv[b];
      one.shape.seqlen_q = std::min(plan.shape.seqlen_q, one.shape.seqlen_kv);
      one.prefix_len = one.shape.seqlen_kv - suffix;
    }
    const bool dense = count[b] == one.shape.seqlen_kv;
    if (dense && report.reason == DenseReason::kNone) report.reason = DenseReason::kDecidedOnDevice;
    if (!dense) report.path = Path::kSparse;
    const double causal = dense_pairs(one.shape);
    report.keep_count += count[b];
    tokens += static_cast<double>(one.shape.seqlen_kv);
    all_pairs += causal;
    pairs += dense ? causal
                   : sparse_pairs(one, count[b] - (one.shape.seqlen_kv - one.prefix_len));
  }
  report.keep_ratio = static_cast<double>(report.keep_count) / tokens;
  report.attention_pairs = pairs / all_pairs;
  return report;
}

Status read_report(const Plan& plan, std::span<std::byte> workspace, void* stream,
                   RunReport& report) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  Layout layout;
  TOKENSIEVE_RETURN_IF_ERROR(lay_out(plan, *device, workspace, layout));
  const auto queue = static_cast<cudaStream_t>(stream);
  std::vector<int32_t> count, cu_seqlens_kv;
  const auto fetch = [&](const int32_t* from, int64_t size, std::vector<int32_t>& to) {
    to.resize(static_cast<size_t>(size));
    return launched("read of counts", cudaMemcpyAsync(to.data(), from, to.size() * sizeof(int32_t),
                                                      cudaMemcpyDeviceToHost, queue));
  };
  if (plan.path == Path::kSparse) {
    TOKENSIEVE_RETURN_IF_ERROR(fetch(layout.count, plan.shape.batch, count));
    if (plan.shape.packed) {
      TOKENSIEVE_RETURN_IF_ERROR(
          fetch(layout.cu_seqlens_kv, plan.shape.batch + 1, cu_seqlens_kv));
    }
  }
  TOKENSIEVE_RETURN_IF_ERROR(launched("run", cudaStreamSynchronize(queue)));
  report = plan.path == Path::kSparse ? full_report(plan, count, cu_seqlens_kv)
                                      : early_report(plan);
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
