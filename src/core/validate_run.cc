// The memory of a call: pointers, shapes, strides, alignment, overlaps, indices.
#include <algorithm>

#include "core/validate.h"
#include "core/validate_parts.h"

namespace tokensieve {
namespace {

// Ranks that choose tokens need each other's scores.
Status check_ranks(const Plan& plan, const AttentionInputs& in, const RunOptions& options) {
  const bool chooses = plan.path == Path::kSparse && in.keep.indices == nullptr;
  if (plan.options.num_ranks == 1 || !chooses || options.all_gather != nullptr) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "options.all_gather is null; the plan's heads are split over %d ranks, "
                       "whose scores decide together",
                       plan.options.num_ranks);
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
  TOKENSIEVE_RETURN_IF_ERROR(
      check_cu_seqlens("cu_seqlens_q", in.cu_seqlens_q, s.batch, in.q.shape[1], s.seqlen_q));
  TOKENSIEVE_RETURN_IF_ERROR(
      check_cu_seqlens("cu_seqlens_kv", in.cu_seqlens_kv, s.batch, in.k.shape[1], s.seqlen_kv));
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t q = int64_t{in.cu_seqlens_q[b + 1]} - in.cu_seqlens_q[b];
    const int64_t kv = int64_t{in.cu_seqlens_kv[b + 1]} - in.cu_seqlens_kv[b];
    if (q > kv) {
      return Status::error(StatusCode::kInvalidArgument,
                           "sequence %lld has %lld queries and %lld keys; queries are the last "
                           "tokens of the keys",
                           (long long)b, (long long)q, (long long)kv);
    }
    AttentionShape sequence = s;
    sequence.packed = false;
    sequence.seqlen_q = q;
    sequence.seqlen_kv = kv;
    TOKENSIEVE_RETURN_IF_ERROR(validate_queries(sequence, plan.select));
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

}  // namespace

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

Status check_q_and_k(const Plan& plan, const AttentionInputs& in) {
  const AttentionShape& s = plan.shape;
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("q", in.q, {s.dtype, s.batch, s.seqlen_q, s.num_q_heads, s.head_dim}));
  return check_tensor(
      "k", in.k,
      {s.kv_dtype, s.batch, s.seqlen_kv, s.num_kv_heads, s.head_dim, in.kv_indices != nullptr});
}

Status check_kv_indices(const Plan& plan, const int32_t* kv_indices, int64_t rows) {
  if (kv_indices == nullptr || on_device(plan)) return {};
  const int64_t count = plan.shape.batch * plan.shape.seqlen_kv;
  bool valid = true;
  for (int64_t i = 0; i < count; ++i) valid &= kv_indices[i] >= 0 && kv_indices[i] < rows;
  if (valid) return {};
  int64_t i = 0;
  while (kv_indices[i] >= 0 && kv_indices[i] < rows) ++i;
  return Status::error(StatusCode::kInvalidArgument,
                       "kv_indices[%lld] is %d; allowed: 0 to %lld (rows of k and v)", (long long)i,
                       kv_indices[i], (long long)(rows - 1));
}

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
      check_tensor("q", in.q, {s.dtype, batch, rows_q, s.num_q_heads, s.head_dim}));
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("k", in.k, {s.kv_dtype, batch, rows_kv, s.num_kv_heads, s.head_dim, indexed}));
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("v", in.v, {s.kv_dtype, batch, rows_kv, s.num_kv_heads, s.head_dim, indexed}));
  TOKENSIEVE_RETURN_IF_ERROR(
      check_tensor("out", outputs.out, {s.out_dtype, batch, rows_q, s.num_q_heads, s.head_dim}));
  TOKENSIEVE_RETURN_IF_ERROR(check_no_self_overlap("out", outputs.out));
  TOKENSIEVE_RETURN_IF_ERROR(check_bias(plan, in));
  TOKENSIEVE_RETURN_IF_ERROR(check_given(plan, in));
  TOKENSIEVE_RETURN_IF_ERROR(check_blocks(plan, in));
  TOKENSIEVE_RETURN_IF_ERROR(check_ranks(plan, in, options));
  TOKENSIEVE_RETURN_IF_ERROR(check_workspace(plan, workspace, options));

  const size_t heads = static_cast<size_t>(s.num_q_heads);
  const size_t tokens = static_cast<size_t>(batch * rows_kv);
  const size_t lse_rows = static_cast<size_t>(batch * rows_q) * heads;
  const size_t cu_seqlens = s.packed ? static_cast<size_t>(s.batch + 1) * 4 : 0;
  const size_t bias_elements =
      static_cast<size_t>((s.seqlen_q - 1) * in.bias_row_stride + in.k.shape[1]);
  TOKENSIEVE_RETURN_IF_ERROR(
      check_disjoint({{"out", outputs.out},
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
                      {"block_mask", in.block_mask.bits, mask_bytes(plan)},
                      {"block_scores", in.block_scores, block_score_bytes(plan)},
                      {"block_thresholds", in.block_thresholds,
                       static_cast<size_t>(plan.num_masks) * 4},
                      {"block_sizes", in.block_sizes, heads * 8},
                      {"cu_seqlens_q", in.cu_seqlens_q, cu_seqlens},
                      {"cu_seqlens_kv", in.cu_seqlens_kv, cu_seqlens}}));
  const int64_t rows = in.k.shape[1] < in.v.shape[1] ? in.k.shape[1] : in.v.shape[1];
  return check_kv_indices(plan, in.kv_indices, rows);
}

Status validate_select_tokens(const Plan& plan, const AttentionInputs& in, const KeepSet& keep,
                              std::span<std::byte> workspace, const RunOptions& options) {
  const AttentionShape& s = plan.shape;
  TOKENSIEVE_RETURN_IF_ERROR(check_q_and_k(plan, in));
  if (in.keep.indices != nullptr) {
    return Status::error(StatusCode::kInvalidArgument,
                         "inputs.keep was given to select_tokens, which chooses; give it to run");
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_keep_memory(plan, keep, plan.keep_capacity()));
  TOKENSIEVE_RETURN_IF_ERROR(check_ranks(plan, in, options));
  TOKENSIEVE_RETURN_IF_ERROR(check_workspace(plan, workspace, options));
  const size_t indices = static_cast<size_t>(s.batch * plan.num_sets * keep.capacity);
  TOKENSIEVE_RETURN_IF_ERROR(check_disjoint(
      {{"keep.indices", keep.indices, indices * 4},
       {"keep.count", keep.count, static_cast<size_t>(s.batch) * 8},
       {"workspace", workspace.data(), plan.workspace}},
      {{"q", in.q},
       {"k", in.k},
       {"sink_logits", in.sink_logits, static_cast<size_t>(s.num_q_heads) * 4},
       {"kv_indices", in.kv_indices, static_cast<size_t>(s.batch * s.seqlen_kv) * 4}}));
  return check_kv_indices(plan, in.kv_indices, in.k.shape[1]);
}

}  // namespace tokensieve
