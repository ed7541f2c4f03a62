#include "core/validate.h"

#include <cmath>
#include <cstdint>
#include <limits>

namespace tokensieve {
namespace {

constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

Status invalid(const char* name, double value, const char* allowed) {
  return Status::error(StatusCode::kInvalidArgument, "%s is %g; allowed: %s", name, value, allowed);
}

bool valid_dtype(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// First and one-past-last byte that a view touches.
struct ByteRange {
  uintptr_t begin = 0, end = 0;
  bool overlaps(const ByteRange& other) const { return begin < other.end && other.begin < end; }
};

ByteRange byte_range(const TensorView& view) {
  int64_t last = 0;
  for (int axis = 0; axis < 4; ++axis) last += (view.shape[axis] - 1) * view.strides[axis];
  const uintptr_t begin = reinterpret_cast<uintptr_t>(view.data);
  return {begin, begin + static_cast<size_t>(last + 1) * dtype_size(view.dtype)};
}

ByteRange byte_range(const void* data, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  return {begin, begin + bytes};
}

// `min_seq` rows at least; exactly so many unless `longer_ok`.
Status check_tensor(const char* name, const TensorView& view, DType dtype, int64_t batch,
                    int64_t min_seq, int64_t heads, int64_t dim, bool longer_ok = false) {
  const auto& s = view.shape;
  if (view.data == nullptr) {
    return Status::error(StatusCode::kInvalidArgument, "%s.data is null; pass the tensor's memory",
                         name);
  }
  if (view.dtype != dtype) {
    return Status::error(StatusCode::kInvalidArgument, "%s is %s; the plan was made for %s", name,
                         dtype_name(view.dtype), dtype_name(dtype));
  }
  const bool seq_ok = longer_ok ? s[1] >= min_seq : s[1] == min_seq;
  if (s[0] != batch || !seq_ok || s[2] != heads || s[3] != dim) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s has shape [%lld, %lld, %lld, %lld] (batch, seq, head, dim); the plan "
                         "needs [%lld, %s%lld, %lld, %lld]",
                         name, (long long)s[0], (long long)s[1], (long long)s[2], (long long)s[3],
                         (long long)batch, longer_ok ? ">= " : "", (long long)min_seq,
                         (long long)heads, (long long)dim);
  }
  if (view.strides[3] != 1) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s.strides[3] is %lld; allowed: 1 (head_dim must be contiguous; copy the "
                         "tensor)",
                         name, (long long)view.strides[3]);
  }
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t least = s[axis] > 1 ? dim : 0;
    if (view.strides[axis] < least || view.strides[axis] > (int64_t{1} << 46)) {
      return Status::error(StatusCode::kInvalidArgument,
                           "%s.strides[%d] is %lld; allowed: at least head_dim (%lld) elements",
                           name, axis, (long long)view.strides[axis], (long long)least);
    }
  }
  if (reinterpret_cast<uintptr_t>(view.data) % dtype_size(dtype) != 0) {
    return Status::error(StatusCode::kInvalidArgument, "%s.data is not aligned to its %zu-byte %s",
                         name, dtype_size(dtype), dtype_name(dtype));
  }
  return {};
}

// An output tensor's rows must not overlap one another: sorted by stride, every axis steps past
// all the inner ones.
Status check_no_self_overlap(const char* name, const TensorView& view) {
  int order[3] = {0, 1, 2};
  for (int i = 0; i < 3; ++i) {
    for (int j = i + 1; j < 3; ++j) {
      if (view.strides[order[j]] < view.strides[order[i]]) std::swap(order[i], order[j]);
    }
  }
  int64_t extent = view.shape[3];
  for (int axis : order) {
    if (view.shape[axis] == 1) continue;
    if (view.strides[axis] < extent) {
      return Status::error(StatusCode::kInvalidArgument,
                           "%s.strides[%d] is %lld, so its rows overlap; allowed: at least %lld",
                           name, axis, (long long)view.strides[axis], (long long)extent);
    }
    extent = view.strides[axis] * (view.shape[axis] - 1) + extent;
  }
  return {};
}

Status check_disjoint(const char* name_a, ByteRange a, const char* name_b, ByteRange b) {
  if (!a.overlaps(b)) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "%s overlaps %s in memory; give %s a buffer of its own", name_a, name_b,
                       name_a);
}

Status check_workspace(const Plan& plan, std::span<std::byte> workspace,
                       const RunOptions& options) {
  if (workspace.size() < plan.workspace || (plan.workspace > 0 && workspace.data() == nullptr)) {
    return Status::error(StatusCode::kWorkspaceTooSmall,
                         "workspace is %zu bytes; the plan needs workspace_bytes(plan) = %zu",
                         workspace.data() == nullptr ? size_t{0} : workspace.size(),
                         plan.workspace);
  }
  const int threads = options.executor ? options.executor->num_threads() : 1;
  if (threads > plan.options.num_threads) {
    return Status::error(StatusCode::kInvalidArgument,
                         "the executor has %d threads; the plan was made for num_threads = %d",
                         threads, plan.options.num_threads);
  }
  return {};
}

// The indices' upper bound per sequence and set.
int64_t capacity_needed(const Plan& plan) {
  return plan.max_keep + plan.shape.seqlen_kv - plan.prefix_len;
}

}  // namespace

Status validate_shape(const AttentionShape& s) {
  if (s.batch < 1 || s.batch > (1 << 20)) return invalid("batch", s.batch, "1..2^20");
  if (s.seqlen_kv < 1 || s.seqlen_kv > kMaxTokens) {
    return invalid("seqlen_kv", s.seqlen_kv, "1..2^31-1");
  }
  if (s.seqlen_q < 1 || s.seqlen_q > s.seqlen_kv) {
    return Status::error(StatusCode::kInvalidArgument,
                         "seqlen_q is %lld; allowed: 1..seqlen_kv (%lld): queries are the last "
                         "tokens of the keys",
                         (long long)s.seqlen_q, (long long)s.seqlen_kv);
  }
  if (s.num_kv_heads < 1 || s.num_kv_heads > 4096) {
    return invalid("num_kv_heads", s.num_kv_heads, "1..4096");
  }
  if (s.num_q_heads < 1 || s.num_q_heads > 4096 || s.num_q_heads % s.num_kv_heads != 0) {
    return Status::error(StatusCode::kInvalidArgument,
                         "num_q_heads is %d; allowed: a multiple of num_kv_heads (%d), at most "
                         "4096",
                         s.num_q_heads, s.num_kv_heads);
  }
  if (s.head_dim < 16 || s.head_dim > 256 || s.head_dim % 16 != 0) {
    return Status::error(StatusCode::kUnsupported,
                         "head_dim is %d; allowed: a multiple of 16 from 16 to 256 (pad with "
                         "zeros)",
                         s.head_dim);
  }
  if (!valid_dtype(s.dtype)) return invalid("dtype", static_cast<int>(s.dtype), "f32, f16, bf16");
  if (!valid_dtype(s.kv_dtype)) {
    return invalid("kv_dtype", static_cast<int>(s.kv_dtype), "f32, f16, bf16");
  }
  if (!valid_dtype(s.out_dtype)) {
    return invalid("out_dtype", static_cast<int>(s.out_dtype), "f32, f16, bf16");
  }
  if (!std::isfinite(s.sm_scale) || s.sm_scale < 0) {
    return invalid("sm_scale", s.sm_scale, "finite and > 0, or 0 for 1/sqrt(head_dim)");
  }
  if (!std::isfinite(s.softcap) || s.softcap < 0) {
    return invalid("softcap", s.softcap, "finite and > 0, or 0 for none");
  }
  return {};
}

Status validate_select(const SelectConfig& c) {
  if (!c.enabled) return {};
  if (c.budget < BudgetPolicy::kTau || c.budget > BudgetPolicy::kKeepCount) {
    return invalid("budget", static_cast<int>(c.budget), "tau, keep_ratio, keep_count");
  }
  if (c.share < Share::kHead || c.share > Share::kLayer) {
    return invalid("share", static_cast<int>(c.share), "head, kv, layer");
  }
  if (c.fill < Fill::kZero || c.fill > Fill::kLocal) {
    return invalid("fill", static_cast<int>(c.fill), "zero, local");
  }
  if (c.queries < Queries::kKept || c.queries > Queries::kAll) {
    return invalid("queries", static_cast<int>(c.queries), "kept, all");
  }
  if (c.arithmetic < Arithmetic::kFp32 || c.arithmetic > Arithmetic::kReferenceRounding) {
    return invalid("arithmetic", static_cast<int>(c.arithmetic), "fp32, reference_rounding");
  }
  if (c.dense_policy < DensePolicy::kBreakEven || c.dense_policy > DensePolicy::kNever) {
    return invalid("dense_policy", static_cast<int>(c.dense_policy), "break_even, never");
  }
  // Written so that NaN fails each test.
  if (!(c.tau >= 0.0 && c.tau < 1.0)) return invalid("tau", c.tau, "[0, 1)");
  if (!(c.keep_ratio > 0.0 && c.keep_ratio <= 1.0)) {
    return invalid("keep_ratio", c.keep_ratio, "(0, 1]");
  }
  if (!(c.min_drop >= 0.0 && c.min_drop < 1.0)) return invalid("min_drop", c.min_drop, "[0, 1)");
  if (c.keep_count < 1) return invalid("keep_count", c.keep_count, ">= 1");
  if (c.obs_window < 1) return invalid("obs_window", c.obs_window, ">= 1");
  if (c.obs_window > 4096) return invalid("obs_window", c.obs_window, "at most 4096");
  if (c.pool_width < 1 || c.pool_width % 2 == 0 || c.pool_width > 1023) {
    return invalid("pool_width", c.pool_width, "an odd number from 1 to 1023");
  }
  if (c.min_keep < 0) return invalid("min_keep", c.min_keep, ">= 0");
  if (c.protect_first < 0) return invalid("protect_first", c.protect_first, ">= 0");
  if (c.local_window < 0 || c.local_window % kLocalBlock != 0 || c.local_window > (1 << 30)) {
    return invalid("local_window", c.local_window, "a multiple of 64, >= 0");
  }
  if (c.sinks < 0 || c.sinks > kLocalBlock) return invalid("sinks", c.sinks, "0..64");
  return {};
}

Status validate_options(const PlanOptions& o) {
  if (o.num_threads < 1 || o.num_threads > 4096) {
    return invalid("num_threads", o.num_threads, "1..4096");
  }
  if (o.backend < Backend::kAuto || o.backend > Backend::kCuda) {
    return invalid("backend", static_cast<int>(o.backend), "auto, ref, cpu, cuda");
  }
  if (o.isa < Isa::kAuto || o.isa > Isa::kBaseline) {
    return invalid("isa", static_cast<int>(o.isa), "auto, avx512, avx2, sse4, neon, baseline");
  }
  return {};
}

Status validate_run(const Plan& plan, const AttentionInputs& in, const AttentionOutputs& outputs,
                    std::span<std::byte> workspace, const RunOptions& options) {
  const AttentionShape& s = plan.shape;
  const bool indexed = in.kv_indices != nullptr;
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("q", in.q, s.dtype, s.batch, s.seqlen_q, s.num_q_heads, s.head_dim));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("k", in.k, s.kv_dtype, s.batch, s.seqlen_kv,
                                          s.num_kv_heads, s.head_dim, indexed));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("v", in.v, s.kv_dtype, s.batch, s.seqlen_kv,
                                          s.num_kv_heads, s.head_dim, indexed));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("out", outputs.out, s.out_dtype, s.batch, s.seqlen_q,
                                          s.num_q_heads, s.head_dim));
  TOKENSIEVE_RETURN_IF_ERROR(check_no_self_overlap("out", outputs.out));
  if (in.bias != nullptr && s.causal) {
    return Status::error(StatusCode::kInvalidArgument,
                         "a bias was given to a causal plan; make the plan with causal = false "
                         "(the bias then holds the mask)");
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_workspace(plan, workspace, options));

  const ByteRange out = byte_range(outputs.out);
  TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("out", out, "q", byte_range(in.q)));
  TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("out", out, "k", byte_range(in.k)));
  TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("out", out, "v", byte_range(in.v)));
  const ByteRange scratch = byte_range(workspace.data(), plan.workspace);
  TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("workspace", scratch, "out", out));
  TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("workspace", scratch, "q", byte_range(in.q)));
  TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("workspace", scratch, "k", byte_range(in.k)));
  TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("workspace", scratch, "v", byte_range(in.v)));
  if (outputs.lse != nullptr) {
    const size_t rows = static_cast<size_t>(s.batch) * s.num_q_heads * s.seqlen_q;
    const ByteRange lse = byte_range(outputs.lse, rows * sizeof(float));
    TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("lse", lse, "out", out));
    TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("lse", lse, "q", byte_range(in.q)));
    TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("lse", lse, "k", byte_range(in.k)));
    TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("lse", lse, "v", byte_range(in.v)));
    TOKENSIEVE_RETURN_IF_ERROR(check_disjoint("workspace", scratch, "lse", lse));
  }
  return {};
}

namespace {
Status check_keep_set(const Plan& plan, const KeepSet& keep) {
  if (keep.indices == nullptr || keep.count == nullptr) {
    return Status::error(StatusCode::kInvalidArgument,
                         "keep.%s is null; pass i32 [batch, %d, capacity] indices and i64 [batch] "
                         "count",
                         keep.indices == nullptr ? "indices" : "count", plan.num_sets);
  }
  if (keep.capacity < capacity_needed(plan)) {
    return Status::error(StatusCode::kInvalidArgument,
                         "keep.capacity is %lld; the plan may keep %lld tokens a set",
                         (long long)keep.capacity, (long long)capacity_needed(plan));
  }
  return {};
}
}  // namespace

Status validate_select_tokens(const Plan& plan, const TensorView& q, const TensorView& k,
                              const KeepSet& keep, std::span<std::byte> workspace,
                              const RunOptions& options) {
  const AttentionShape& s = plan.shape;
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("q", q, s.dtype, s.batch, s.seqlen_q, s.num_q_heads, s.head_dim));
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("k", k, s.kv_dtype, s.batch, s.seqlen_kv, s.num_kv_heads, s.head_dim));
  TOKENSIEVE_RETURN_IF_ERROR(check_keep_set(plan, keep));
  return check_workspace(plan, workspace, options);
}

Status validate_gather(const Plan& plan, const TensorView& full, const TensorView& rows,
                       const KeepSet& keep, const char* full_name, const char* rows_name) {
  const AttentionShape& s = plan.shape;
  TOKENSIEVE_RETURN_IF_ERROR(check_keep_set(plan, keep));
  const int64_t heads_out = rows.shape[2];
  const int64_t heads_in = full.shape[2];
  if (plan.num_sets < 1 || heads_in < 1 || heads_out < 1 || heads_out % plan.num_sets != 0 ||
      heads_out % heads_in != 0) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s has %lld heads; allowed: a multiple of the %lld heads of %s and of "
                         "the plan's %d index sets",
                         rows_name, (long long)heads_out, (long long)heads_in, full_name,
                         plan.num_sets);
  }
  if (!valid_dtype(full.dtype)) return invalid("dtype", static_cast<int>(full.dtype), "f32, f16, bf16");
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor(full_name, full, full.dtype, s.batch, s.seqlen_kv,
                                          heads_in, s.head_dim));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor(rows_name, rows, full.dtype, s.batch, keep.capacity,
                                          heads_out, s.head_dim));
  return check_disjoint(rows_name, byte_range(rows), full_name, byte_range(full));
}

}  // namespace tokensieve
