// Kept tokens: the caller's memory, what it holds, and the calls that move rows by it.
#include <algorithm>

#include "core/backend_table.h"
#include "core/plan.h"
#include "core/validate.h"
#include "core/validate_parts.h"
#include "tokensieve/names.h"

namespace tokensieve {
namespace {

// One set: `count` ascending positions below seqlen.
Status check_set(const Plan& plan, const KeepSet& keep, int64_t b, int64_t set, int64_t count,
                 int64_t seqlen) {
  const int32_t* row = keep.indices + (b * plan.num_sets + set) * keep.capacity;
  for (int64_t r = 0; r < count; ++r) {
    if (row[r] > (r == 0 ? -1 : row[r - 1]) && row[r] < seqlen) continue;
    return Status::error(StatusCode::kInvalidArgument,
                         "keep.indices[%lld, %lld, %lld] is %d; allowed: ascending positions "
                         "from 0 to %lld",
                         (long long)b, (long long)set, (long long)r, row[r],
                         (long long)(seqlen - 1));
  }
  return {};
}

// What select_tokens wrote, or what the caller chose instead.
Status check_keep_contents(const Plan& plan, const KeepSet& keep) {
  if (on_device(plan)) return {};
  const int64_t seqlen = plan.shape.seqlen_kv;
  for (int64_t b = 0; b < plan.shape.batch; ++b) {
    const int64_t count = keep.count[b];
    if (count == seqlen) continue;  // runs dense: no indices
    if (count < 0 || count > seqlen || count > keep.capacity) {
      return Status::error(StatusCode::kInvalidArgument,
                           "keep.count[%lld] is %lld; allowed: 0 to keep.capacity (%lld), or "
                           "seqlen_kv (%lld) for a dense sequence",
                           (long long)b, (long long)count, (long long)keep.capacity,
                           (long long)seqlen);
    }
    for (int64_t set = 0; set < plan.num_sets; ++set) {
      TOKENSIEVE_RETURN_IF_ERROR(check_set(plan, keep, b, set, count, seqlen));
    }
  }
  return {};
}

// Sets of sequence b that the caller gives: they end with everything after the prefix.
Status check_given_sets(const Plan& plan, const KeepSet& keep, int64_t b, int64_t seqlen_q,
                        int64_t seqlen) {
  const int64_t count = keep.count[b];
  if (count == seqlen) return {};  // runs dense: no indices
  const int64_t suffix = suffix_of(plan.select, seqlen_q);
  const int64_t most = std::min({plan.max_keep + suffix, keep.capacity, seqlen});
  if (count < suffix || count > most) {
    return Status::error(StatusCode::kInvalidArgument,
                         "keep.count[%lld] is %lld; allowed: %lld (what follows the prefix is "
                         "always kept) to %lld (the most of plan and keep.capacity), or %lld, all "
                         "tokens, for dense; plan with a larger keep_count for larger sets",
                         (long long)b, (long long)count, (long long)suffix, (long long)most,
                         (long long)seqlen);
  }
  for (int64_t set = 0; set < plan.num_sets; ++set) {
    TOKENSIEVE_RETURN_IF_ERROR(check_set(plan, keep, b, set, count, seqlen));
    const int32_t* row = keep.indices + (b * plan.num_sets + set) * keep.capacity;
    // They ascend below seqlen, so the rest follows from the first.
    if (row[count - suffix] == seqlen - suffix) continue;
    return Status::error(StatusCode::kInvalidArgument,
                         "keep.indices[%lld, %lld] does not end with the last %lld tokens, which "
                         "are always kept: entry %lld is %d, not %lld",
                         (long long)b, (long long)set, (long long)suffix,
                         (long long)(count - suffix), row[count - suffix],
                         (long long)(seqlen - suffix));
  }
  return {};
}

// `rows` holds kept rows, `full` all of them; one of them is written.
Status check_gather(const Plan& plan, const char* full_name, const TensorView& full,
                    const TensorView& rows, const KeepSet& keep, bool writes_rows) {
  const AttentionShape& s = plan.shape;
  TOKENSIEVE_RETURN_IF_ERROR(check_keep_memory(plan, keep, plan.keep_capacity()));
  const int64_t heads = rows.shape[2];
  const int64_t full_heads = full.shape[2];
  const bool heads_ok = full_heads >= 1 && heads >= 1 && heads <= s.num_q_heads &&
                        heads % plan.num_sets == 0 &&
                        (writes_rows ? heads % full_heads == 0 : heads == full_heads);
  if (!heads_ok) {
    return Status::error(StatusCode::kInvalidArgument,
                         "compacted has %lld heads; allowed: %s the %lld heads of %s, a multiple "
                         "of the plan's %d index sets, at most num_q_heads (%d)",
                         (long long)heads, writes_rows ? "a multiple of" : "exactly",
                         (long long)full_heads, full_name, plan.num_sets, s.num_q_heads);
  }
  if (!is_valid(full.dtype)) {
    return Status::error(StatusCode::kInvalidArgument, "%s.dtype is %d; allowed: f32, f16, bf16",
                         full_name, static_cast<int>(full.dtype));
  }
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor(full_name, full, {full.dtype, s.batch, s.seqlen_kv, full_heads, s.head_dim}));
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("compacted", rows, {full.dtype, s.batch, keep.capacity, heads, s.head_dim}));
  TOKENSIEVE_RETURN_IF_ERROR(writes_rows ? check_no_self_overlap("compacted", rows)
                                         : check_no_self_overlap(full_name, full));
  const Region full_region(full_name, full), rows_region("compacted", rows);
  const Region indices("keep.indices", keep.indices,
                       static_cast<size_t>(s.batch * plan.num_sets * keep.capacity) * 4);
  const Region count("keep.count", keep.count, static_cast<size_t>(s.batch) * 8);
  TOKENSIEVE_RETURN_IF_ERROR(writes_rows
                                 ? check_disjoint({rows_region}, {full_region, indices, count})
                                 : check_disjoint({full_region}, {rows_region, indices, count}));
  return check_keep_contents(plan, keep);
}

}  // namespace

bool on_device(const Plan& plan) { return backend_ops(plan.options.backend)->device_memory; }

Status check_keep_memory(const Plan& plan, const KeepSet& keep, int64_t least) {
  if (keep.indices == nullptr || keep.count == nullptr) {
    return Status::error(StatusCode::kInvalidArgument,
                         "keep.%s is null; pass i32 [batch, %d, capacity] indices and i64 [batch] "
                         "count",
                         keep.indices == nullptr ? "indices" : "count", plan.num_sets);
  }
  if (keep.capacity < least || keep.capacity > kMaxExtent) {
    return Status::error(StatusCode::kInvalidArgument,
                         "keep.capacity is %lld; allowed: at least %lld, what the plan may keep "
                         "in a set",
                         (long long)keep.capacity, (long long)least);
  }
  return {};
}

Status check_given(const Plan& plan, const AttentionInputs& in) {
  const KeepSet& keep = in.keep;
  if (keep.indices == nullptr) {
    if (keep.count == nullptr) return {};
    return check_keep_memory(plan, keep, 1);
  }
  if (plan.path == Path::kDense) {
    return Status::error(StatusCode::kInvalidArgument,
                         "keep was given, but the plan is dense: %s; plan with budget keep_count, "
                         "keep_count below the prefix's length, min_keep 0 and dense_policy never",
                         dense_reason_text(plan.reason));
  }
  const AttentionShape& s = plan.shape;
  TOKENSIEVE_RETURN_IF_ERROR(check_keep_memory(plan, keep, 1));
  if (on_device(plan)) return {};
  for (int64_t b = 0; b < s.batch; ++b) {
    const auto length = [&](const int32_t* cu_seqlens, int64_t all) {
      return s.packed ? int64_t{cu_seqlens[b + 1]} - cu_seqlens[b] : all;
    };
    TOKENSIEVE_RETURN_IF_ERROR(check_given_sets(plan, keep, b,
                                                length(in.cu_seqlens_q, s.seqlen_q),
                                                length(in.cu_seqlens_kv, s.seqlen_kv)));
  }
  return {};
}

Status validate_compact(const Plan& plan, const TensorView& x, const KeepSet& keep,
                        const TensorView& compacted) {
  return check_gather(plan, "x", x, compacted, keep, /*writes_rows=*/true);
}

Status validate_scatter(const Plan& plan, const TensorView& compacted, const KeepSet& keep,
                        const TensorView& out) {
  return check_gather(plan, "out", out, compacted, keep, /*writes_rows=*/false);
}

}  // namespace tokensieve
