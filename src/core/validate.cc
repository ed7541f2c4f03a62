// The parameters of a plan: shape, selection, options.
#include "core/validate.h"

#include <cmath>
#include <cstdint>
#include <limits>

namespace tokensieve {
namespace {

constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();
constexpr int kMaxHeads = 4096;
constexpr int64_t kMaxBatchTokens = int64_t{1} << 36;

Status invalid(const char* name, double value, const char* allowed) {
  return Status::error(StatusCode::kInvalidArgument, "%s is %g; allowed: %s", name, value, allowed);
}

}  // namespace

bool valid_dtype(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

Status validate_shape(const AttentionShape& s) {
  if (s.batch < 1 || s.batch > (1 << 20)) return invalid("batch", s.batch, "1..2^20");
  if (s.seqlen_kv < 1 || s.seqlen_kv > kMaxTokens) {
    return invalid("seqlen_kv", s.seqlen_kv, "1..2^31-1");
  }
  // Keeps element counts of every tensor and workspace below 2^60.
  if (s.batch * s.seqlen_kv > kMaxBatchTokens) {
    return invalid("batch * seqlen_kv", static_cast<double>(s.batch * s.seqlen_kv), "at most 2^36");
  }
  if (s.seqlen_q < 1 || s.seqlen_q > s.seqlen_kv) {
    return Status::error(StatusCode::kInvalidArgument,
                         "seqlen_q is %lld; allowed: 1..seqlen_kv (%lld): queries are the last "
                         "tokens of the keys",
                         (long long)s.seqlen_q, (long long)s.seqlen_kv);
  }
  if (s.num_kv_heads < 1 || s.num_kv_heads > kMaxHeads) {
    return invalid("num_kv_heads", s.num_kv_heads, "1..4096");
  }
  if (s.num_q_heads < 1 || s.num_q_heads > kMaxHeads || s.num_q_heads % s.num_kv_heads != 0) {
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

Status validate_options(const AttentionShape& shape, const PlanOptions& o) {
  if (o.num_threads < 1 || o.num_threads > 4096) {
    return invalid("num_threads", o.num_threads, "1..4096");
  }
  if (o.backend < Backend::kAuto || o.backend > Backend::kCuda) {
    return invalid("backend", static_cast<int>(o.backend), "auto, ref, cpu, cuda");
  }
  if (o.num_ranks < 1 || o.num_ranks > 1024) return invalid("num_ranks", o.num_ranks, "1..1024");
  if (o.rank < 0 || o.rank >= o.num_ranks) {
    return invalid("rank", o.rank, "0..num_ranks - 1");
  }
  if (o.isa < Isa::kAuto || o.isa > Isa::kBaseline) {
    return invalid("isa", static_cast<int>(o.isa), "auto, avx512, avx2, sse4, neon, baseline");
  }
  if (int64_t{shape.num_q_heads} * o.num_ranks > kMaxHeads) {
    return Status::error(StatusCode::kInvalidArgument,
                         "num_q_heads * num_ranks is %lld; allowed: at most %d",
                         (long long)(int64_t{shape.num_q_heads} * o.num_ranks), kMaxHeads);
  }
  return {};
}

}  // namespace tokensieve
