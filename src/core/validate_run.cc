// The memory of a call: pointers, shapes, strides, alignment, overlaps, indices.
#include <algorithm>
#include <initializer_list>
#include <utility>

#include "core/backend_table.h"
#include "core/validate.h"

namespace tokensieve {
namespace {

// More elements than any tensor spans; products and sums of valid strides stay below 2^63 bytes.
constexpr int64_t kMaxExtent = int64_t{1} << 46;

// Bytes that a call reads or writes.
struct Region {
  const char* name;
  uintptr_t begin = 0, end = 0;

  Region(const char* region_name, const void* data, size_t bytes) : name(region_name) {
    if (data == nullptr || bytes == 0) return;
    begin = reinterpret_cast<uintptr_t>(data);
    end = begin + bytes;
  }
  Region(const char* region_name, const TensorView& view) : name(region_name) {
    int64_t last = 0;
    for (int axis = 0; axis < 4; ++axis) last += (view.shape[axis] - 1) * view.strides[axis];
    begin = reinterpret_cast<uintptr_t>(view.data);
    end = begin + static_cast<size_t>(last + 1) * dtype_size(view.dtype);
  }
  bool overlaps(const Region& other) const { return begin < other.end && other.begin < end; }
};

// No written region may overlap another one.
Status check_disjoint(std::initializer_list<Region> written, std::initializer_list<Region> read) {
  const auto overlap = [](const Region& a, const Region& b) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s overlaps %s in memory; give %s a buffer of its own", a.name, b.name,
                         a.name);
  };
  for (const Region* a = written.begin(); a != written.end(); ++a) {
    for (const Region* b = a + 1; b != written.end(); ++b) {
      if (a->overlaps(*b)) return overlap(*a, *b);
    }
    for (const Region& b : read) {
      if (a->overlaps(b)) return overlap(*a, b);
    }
  }
  return {};
}

Status check_strides(const char* name, const TensorView& view) {
  if (view.strides[3] != 1) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s.strides[3] is %lld; allowed: 1 (head_dim must be contiguous; copy the "
                         "tensor)",
                         name, (long long)view.strides[3]);
  }
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t steps = view.shape[axis] - 1;
    const int64_t least = steps > 0 ? view.shape[3] : 0;
    const int64_t most = kMaxExtent / (steps > 0 ? steps : 1);
    if (view.strides[axis] < least || view.strides[axis] > most) {
      return Status::error(StatusCode::kInvalidArgument,
                           "%s.strides[%d] is %lld elements; allowed: %lld (head_dim) to %lld",
                           name, axis, (long long)view.strides[axis], (long long)least,
                           (long long)most);
    }
  }
  return {};
}

// [batch, seq, heads, dim] of the plan; at least `seq` rows if `longer_ok`.
Status check_tensor(const char* name, const TensorView& view, DType dtype, int64_t batch,
                    int64_t seq, int64_t heads, int64_t dim, bool longer_ok = false) {
  const auto& s = view.shape;
  if (view.data == nullptr) {
    return Status::error(StatusCode::kInvalidArgument, "%s.data is null; pass the tensor's memory",
                         name);
  }
  if (view.dtype != dtype) {
    return Status::error(StatusCode::kInvalidArgument, "%s is %s; the plan needs %s", name,
                         dtype_name(view.dtype), dtype_name(dtype));
  }
  const bool seq_ok = longer_ok ? s[1] >= seq && s[1] <= kMaxExtent : s[1] == seq;
  if (s[0] != batch || !seq_ok || s[2] != heads || s[3] != dim) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s has shape [%lld, %lld, %lld, %lld] (batch, seq, head, dim); the plan "
                         "needs [%lld, %s%lld, %lld, %lld]",
                         name, (long long)s[0], (long long)s[1], (long long)s[2], (long long)s[3],
                         (long long)batch, longer_ok ? ">= " : "", (long long)seq,
                         (long long)heads, (long long)dim);
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_strides(name, view));
  if (reinterpret_cast<uintptr_t>(view.data) % dtype_size(dtype) != 0) {
    return Status::error(StatusCode::kInvalidArgument, "%s.data is not aligned to its %zu-byte %s",
                         name, dtype_size(dtype), dtype_name(dtype));
  }
  return {};
}

// The rows of a written tensor must not overlap one another: sorted by stride, every axis steps
// past all the inner ones.
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
    extent += view.strides[axis] * (view.shape[axis] - 1);
  }
  return {};
}

// Ranks that choose tokens need each other's scores.
Status check_ranks(const Plan& plan, const AttentionInputs& in, const RunOptions& options) {
  const bool chooses = plan.path == Path::kSparse && in.keep.indices == nullptr;
  if (plan.options.num_ranks == 1 || !chooses || options.all_gather != nullptr) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "options.all_gather is null; the plan's heads are split over %d ranks, "
                       "whose scores decide together",
                       plan.options.num_ranks);
}

Status check_workspace(const Plan& plan, std::span<std::byte> workspace,
                       const RunOptions& options) {
  const size_t bytes = workspace.data() == nullptr ? 0 : workspace.size();
  if (bytes < plan.workspace) {
    return Status::error(StatusCode::kWorkspaceTooSmall,
                         "workspace is %zu bytes; the plan needs workspace_bytes(plan) = %zu",
                         bytes, plan.workspace);
  }
  const int threads = options.executor ? options.executor->num_threads() : 1;
  if (threads < 1 || threads > plan.options.num_threads) {
    return Status::error(StatusCode::kInvalidArgument,
                         "the executor has %d threads; allowed: 1 to the plan's num_threads = %d",
                         threads, plan.options.num_threads);
  }
  return {};
}

// Pointers of the call are device memory, which the host must not read.
bool on_device(const Plan& plan) {
  return backend_ops(plan.options.backend)->device_memory;
}

// Token -> row tables are data, but a wrong entry would read foreign memory.
Status check_kv_indices(const Plan& plan, const int32_t* kv_indices, int64_t rows) {
  if (kv_indices == nullptr || on_device(plan)) return {};
  const int64_t count = plan.shape.batch * plan.shape.seqlen_kv;
  bool valid = true;
  for (int64_t i = 0; i < count; ++i) valid &= kv_indices[i] >= 0 && kv_indices[i] < rows;
  if (valid) return {};
  int64_t i = 0;
  while (kv_indices[i] >= 0 && kv_indices[i] < rows) ++i;
  return Status::error(StatusCode::kInvalidArgument,
                       "kv_indices[%lld] is %d; allowed: 0 to %lld (rows of k and v)",
                       (long long)i, kv_indices[i], (long long)(rows - 1));
}

// Begins of sequences: ascending from 0 to `rows`, none longer than `longest`.
Status check_cu_seqlens(const char* name, const int32_t* cu_seqlens, int64_t batch, int64_t rows,
                        int64_t longest) {
  bool valid = cu_seqlens[0] == 0 && cu_seqlens[batch] == rows;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t length = int64_t{cu_seqlens[b + 1]} - cu_seqlens[b];
    valid &= length >= 0 && length <= longest;
  }
  if (valid) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "%s must ascend from 0 to the tensor's rows (%lld) in steps of at most the "
                       "plan's longest sequence (%lld)",
                       name, (long long)rows, (long long)longest);
}

Status check_packed(const Plan& plan, const AttentionInputs& in) {
  const AttentionShape& s = plan.shape;
  const bool given = in.cu_seqlens_q != nullptr && in.cu_seqlens_kv != nullptr;
  const bool any = in.cu_seqlens_q != nullptr || in.cu_seqlens_kv != nullptr;
  if (s.packed ? !given : any) {
    return Status::error(StatusCode::kInvalidArgument,
                         s.packed
                             ? "cu_seqlens_q or cu_seqlens_kv is null; a packed plan needs both"
                             : "cu_seqlens were given, but the plan's shape is not packed");
  }
  if (!s.packed) return {};
  if (in.kv_indices != nullptr || in.bias != nullptr) {
    return Status::error(StatusCode::kUnsupported,
                         "%s does not go with packed sequences; run them one by one",
                         in.bias != nullptr ? "bias" : "kv_indices");
  }
  for (int64_t rows : {in.q.shape[1], in.k.shape[1]}) {
    if (rows < 1 || rows > kMaxExtent) {
      return Status::error(StatusCode::kInvalidArgument,
                           "a packed tensor has %lld rows; allowed: at least 1", (long long)rows);
    }
  }
  if (on_device(plan)) return {};
  TOKENSIEVE_RETURN_IF_ERROR(check_cu_seqlens("cu_seqlens_q", in.cu_seqlens_q, s.batch,
                                              in.q.shape[1], s.seqlen_q));
  TOKENSIEVE_RETURN_IF_ERROR(check_cu_seqlens("cu_seqlens_kv", in.cu_seqlens_kv, s.batch,
                                              in.k.shape[1], s.seqlen_kv));
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t q = int64_t{in.cu_seqlens_q[b + 1]} - in.cu_seqlens_q[b];
    const int64_t kv = int64_t{in.cu_seqlens_kv[b + 1]} - in.cu_seqlens_kv[b];
    if (q > kv) {
      return Status::error(StatusCode::kInvalidArgument,
                           "sequence %lld has %lld queries and %lld keys; queries are the last "
                           "tokens of the keys",
                           (long long)b, (long long)q, (long long)kv);
    }
  }
  return {};
}

Status check_bias(const Plan& plan, const AttentionInputs& in) {
  if (in.bias == nullptr) return {};
  if (plan.shape.causal) {
    return Status::error(StatusCode::kInvalidArgument,
                         "a bias was given to a causal plan; make the plan with causal = false "
                         "(the bias then holds the mask)");
  }
  if (in.bias_row_stride < 0 || in.bias_row_stride > kMaxExtent / plan.shape.seqlen_q) {
    return Status::error(StatusCode::kInvalidArgument,
                         "bias_row_stride is %lld; allowed: 0 (one row for all queries) or the "
                         "elements between rows",
                         (long long)in.bias_row_stride);
  }
  return {};
}

// `least`: of its capacity.
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
Status check_given_sets(const Plan& plan, const KeepSet& keep, int64_t b, int64_t seqlen) {
  const int64_t count = keep.count[b];
  if (count == seqlen) return {};  // runs dense: no indices
  const int64_t suffix = plan.suffix_len();
  const int64_t most = std::min({plan.keep_capacity(), keep.capacity, seqlen});
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

// inputs.keep of a run.
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
  if (s.packed && plan.select.queries == Queries::kAll) {
    return Status::error(StatusCode::kUnsupported,
                         "keep does not go with packed sequences and queries = all; run the "
                         "sequences one by one");
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_keep_memory(plan, keep, 1));
  if (on_device(plan)) return {};
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t seqlen =
        s.packed ? int64_t{in.cu_seqlens_kv[b + 1]} - in.cu_seqlens_kv[b] : s.seqlen_kv;
    TOKENSIEVE_RETURN_IF_ERROR(check_given_sets(plan, keep, b, seqlen));
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
  if (!valid_dtype(full.dtype)) {
    return Status::error(StatusCode::kInvalidArgument, "%s.dtype is %d; allowed: f32, f16, bf16",
                         full_name, static_cast<int>(full.dtype));
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor(full_name, full, full.dtype, s.batch, s.seqlen_kv,
                                          full_heads, s.head_dim));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("compacted", rows, full.dtype, s.batch, keep.capacity,
                                          heads, s.head_dim));
  TOKENSIEVE_RETURN_IF_ERROR(writes_rows ? check_no_self_overlap("compacted", rows)
                                         : check_no_self_overlap(full_name, full));
  const Region full_region(full_name, full), rows_region("compacted", rows);
  const Region indices("keep.indices", keep.indices,
                       static_cast<size_t>(s.batch * plan.num_sets * keep.capacity) * 4);
  const Region count("keep.count", keep.count, static_cast<size_t>(s.batch) * 8);
  TOKENSIEVE_RETURN_IF_ERROR(
      writes_rows ? check_disjoint({rows_region}, {full_region, indices, count})
                  : check_disjoint({full_region}, {rows_region, indices, count}));
  return check_keep_contents(plan, keep);
}

}  // namespace

Status validate_run(const Plan& plan, const AttentionInputs& in, const AttentionOutputs& outputs,
                    std::span<std::byte> workspace, const RunOptions& options) {
  const AttentionShape& s = plan.shape;
  // Packed tensors hold all sequences in one batch entry, as many rows as cu_seqlens say.
  const int64_t batch = s.packed ? 1 : s.batch;
  const int64_t rows_q = s.packed ? in.q.shape[1] : s.seqlen_q;
  const int64_t rows_kv = s.packed ? in.k.shape[1] : s.seqlen_kv;
  const bool indexed = in.kv_indices != nullptr;
  TOKENSIEVE_RETURN_IF_ERROR(check_packed(plan, in));
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("q", in.q, s.dtype, batch, rows_q, s.num_q_heads, s.head_dim));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("k", in.k, s.kv_dtype, batch, rows_kv, s.num_kv_heads,
                                          s.head_dim, indexed));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("v", in.v, s.kv_dtype, batch, rows_kv, s.num_kv_heads,
                                          s.head_dim, indexed));
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("out", outputs.out, s.out_dtype, batch, rows_q, s.num_q_heads, s.head_dim));
  TOKENSIEVE_RETURN_IF_ERROR(check_no_self_overlap("out", outputs.out));
  TOKENSIEVE_RETURN_IF_ERROR(check_bias(plan, in));
  TOKENSIEVE_RETURN_IF_ERROR(check_given(plan, in));
  TOKENSIEVE_RETURN_IF_ERROR(check_ranks(plan, in, options));
  TOKENSIEVE_RETURN_IF_ERROR(check_workspace(plan, workspace, options));

  const size_t heads = static_cast<size_t>(s.num_q_heads);
  const size_t tokens = static_cast<size_t>(batch * rows_kv);
  const size_t lse_rows = static_cast<size_t>(batch * rows_q) * heads;
  const size_t cu_seqlens = s.packed ? static_cast<size_t>(s.batch + 1) * 4 : 0;
  const size_t bias_elements =
      static_cast<size_t>((s.seqlen_q - 1) * in.bias_row_stride + in.k.shape[1]);
  TOKENSIEVE_RETURN_IF_ERROR(check_disjoint(
      {{"out", outputs.out},
       {"lse", outputs.lse, lse_rows * 4},
       {"workspace", workspace.data(), plan.workspace}},
      {{"q", in.q},
       {"k", in.k},
       {"v", in.v},
       {"sink_logits", in.sink_logits, heads * 4},
       {"kv_indices", in.kv_indices, tokens * 4},
       {"bias", in.bias, in.bias ? bias_elements * 2 : 0},
       {"bias_slopes", in.bias_slopes, heads * 4},
       {"keep.indices", in.keep.indices,
        static_cast<size_t>(s.batch * plan.num_sets * in.keep.capacity) * 4},
       {"keep.count", in.keep.count, static_cast<size_t>(s.batch) * 8},
       {"cu_seqlens_q", in.cu_seqlens_q, cu_seqlens},
       {"cu_seqlens_kv", in.cu_seqlens_kv, cu_seqlens}}));
  const int64_t rows = in.k.shape[1] < in.v.shape[1] ? in.k.shape[1] : in.v.shape[1];
  return check_kv_indices(plan, in.kv_indices, rows);
}

Status validate_select_tokens(const Plan& plan, const AttentionInputs& in, const KeepSet& keep,
                              std::span<std::byte> workspace, const RunOptions& options) {
  const AttentionShape& s = plan.shape;
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("q", in.q, s.dtype, s.batch, s.seqlen_q, s.num_q_heads, s.head_dim));
  TOKENSIEVE_RETURN_IF_ERROR(check_tensor("k", in.k, s.kv_dtype, s.batch, s.seqlen_kv,
                                          s.num_kv_heads, s.head_dim, in.kv_indices != nullptr));
  if (in.keep.indices != nullptr) {
    return Status::error(StatusCode::kInvalidArgument,
                         "inputs.keep was given to select_tokens, which chooses; give it to run");
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_keep_memory(plan, keep, plan.keep_capacity()));
  TOKENSIEVE_RETURN_IF_ERROR(check_ranks(plan, in, options));
  TOKENSIEVE_RETURN_IF_ERROR(check_workspace(plan, workspace, options));
  const size_t indices = static_cast<size_t>(s.batch * plan.num_sets * keep.capacity);
  TOKENSIEVE_RETURN_IF_ERROR(
      check_disjoint({{"keep.indices", keep.indices, indices * 4},
                      {"keep.count", keep.count, static_cast<size_t>(s.batch) * 8},
                      {"workspace", workspace.data(), plan.workspace}},
                     {{"q", in.q},
                      {"k", in.k},
                      {"sink_logits", in.sink_logits, static_cast<size_t>(s.num_q_heads) * 4},
                      {"kv_indices", in.kv_indices,
                       static_cast<size_t>(s.batch * s.seqlen_kv) * 4}}));
  return check_kv_indices(plan, in.kv_indices, in.k.shape[1]);
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
