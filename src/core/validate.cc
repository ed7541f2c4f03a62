// The parameters of a plan: shape, selection, options.
#include "core/validate.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "core/validate_parts.h"

namespace tokensieve {
namespace {

constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();
constexpr int kMaxHeads = 4096;
constexpr int64_t kMaxBatchTokens = int64_t{1} << 36;

Status invalid(const char* name, double value, const char* allowed) {
  return Status::error(StatusCode::kInvalidArgument, "%s is %g; allowed: %s", name, value, allowed);
}

}  // namespace

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
  for (const auto& [name, dtype] :
       {std::pair{"dtype", s.dtype}, {"kv_dtype", s.kv_dtype}, {"out_dtype", s.out_dtype}}) {
    if (!is_valid(dtype)) return invalid(name, static_cast<int>(dtype), allowed_words<DType>());
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
  return check_fields(c, "", [](const SelectField&) { return true; });
}

Status validate_queries(const AttentionShape& s, const SelectConfig& c) {
  const bool selects = c.enabled && s.causal && !s.packed && s.seqlen_q >= c.obs_window;
  if (!selects || s.seqlen_q == s.seqlen_kv || c.fill == Fill::kLocal ||
      c.queries == Queries::kAll) {
    return {};
  }
  return Status::error(StatusCode::kInvalidArgument,
                       "queries = kept with fill = zero takes whole prompts, and the call has %lld "
                       "queries of %lld tokens: later chunks would read zeros; use fill = local, "
                       "or queries = all",
                       (long long)s.seqlen_q, (long long)s.seqlen_kv);
}

Status validate_options(const AttentionShape& shape, const PlanOptions& o) {
  if (o.num_threads < 1 || o.num_threads > 4096) {
    return invalid("num_threads", o.num_threads, "1..4096");
  }
  if (!is_valid(o.backend)) {
    return invalid("backend", static_cast<int>(o.backend), allowed_words<Backend>());
  }
  if (o.num_ranks < 1 || o.num_ranks > 1024) return invalid("num_ranks", o.num_ranks, "1..1024");
  if (o.rank < 0 || o.rank >= o.num_ranks) {
    return invalid("rank", o.rank, "0..num_ranks - 1");
  }
  if (!is_valid(o.isa)) return invalid("isa", static_cast<int>(o.isa), allowed_words<Isa>());
  if (!is_valid(o.products)) {
    return invalid("products", static_cast<int>(o.products), allowed_words<Products>());
  }
  if (int64_t{shape.num_q_heads} * o.num_ranks > kMaxHeads) {
    return Status::error(StatusCode::kInvalidArgument,
                         "num_q_heads * num_ranks is %lld; allowed: at most %d",
                         (long long)(int64_t{shape.num_q_heads} * o.num_ranks), kMaxHeads);
  }
  return {};
}

}  // namespace tokensieve
