#include "core/packed.h"

#include <algorithm>

#include "core/backend_table.h"
#include "core/plan.h"
#include "core/report.h"

namespace tokensieve {
namespace {

// Rows [begin, end) of the seq axis.
TensorView rows_of(const TensorView& x, int64_t begin, int64_t end) {
  TensorView view = x;
  view.data = static_cast<char*>(x.data) +
              begin * x.strides[1] * static_cast<int64_t>(dtype_size(x.dtype));
  view.shape[1] = end - begin;
  return view;
}

constexpr int64_t kChooses = -1;  // the library chooses the kept tokens

// Kept prefix tokens of the sets that the caller gives for sequence b.
int64_t given_prefix(const Plan& packed, const KeepSet& keep, int64_t b, int64_t seqlen_q) {
  if (keep.indices == nullptr) return kChooses;
  return keep.count[b] - suffix_of(packed.select, seqlen_q);
}

// The plan of one sequence: what the packed plan decided for all stays decided. `given`: kept
// prefix tokens, or kChooses.
Result<Plan> plan_of_sequence(const Plan& packed, int64_t seqlen_q, int64_t seqlen_kv,
                              int64_t given) {
  AttentionShape shape = packed.shape;
  shape.packed = false;
  shape.batch = 1;
  shape.seqlen_q = seqlen_q;
  shape.seqlen_kv = seqlen_kv;
  SelectConfig select = packed.select;
  if (packed.path == Path::kDense) select.enabled = false;
  if (given != kChooses) {
    select.budget = BudgetPolicy::kKeepCount;
    select.keep_count = std::max<int64_t>(1, given);
    select.min_keep = select.protect_first = 0;
    select.min_drop = 0.0;
    select.dense_policy = DensePolicy::kNever;
  }
  return make_plan(shape, select, packed.blocks, packed.options);
}

// Sequence b's part; none if it runs dense.
KeepSet sets_of(const Plan& packed, const KeepSet& keep, int64_t b, int64_t seqlen_kv) {
  if (keep.indices == nullptr || keep.count[b] == seqlen_kv) return {};
  return {keep.indices + b * packed.num_sets * keep.capacity, keep.capacity, keep.count + b};
}

// Sequence b's part, whose rows lie as far apart as those of the longest.
BlockMask mask_of(const BlockMask& mask, int64_t b) {
  BlockMask part = mask;
  if (mask.bits != nullptr) part.bits += b * mask.num_masks * mask.row_tiles * mask.words;
  return part;
}

// From [num_q_heads, rows] to rows of a [num_q_heads, stride] tensor.
void place_lse(const float* from, float* to, int64_t heads, int64_t rows, int64_t stride) {
  for (int64_t h = 0; h < heads; ++h) std::copy_n(from + h * rows, rows, to + h * stride);
}

}  // namespace

size_t packed_scratch_bytes(const AttentionShape& shape) {
  return static_cast<size_t>(shape.num_q_heads) * static_cast<size_t>(shape.seqlen_q) *
             sizeof(float) +
         alignof(float);
}

Status run_packed(const Plan& plan, const AttentionInputs& inputs, const AttentionOutputs& outputs,
                  std::span<std::byte> workspace, const RunOptions& options) {
  const int64_t heads = plan.shape.num_q_heads;
  const int64_t rows_q = inputs.q.shape[1];
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  const size_t skip = (alignof(float) - address % alignof(float)) % alignof(float);
  float* lse = reinterpret_cast<float*>(workspace.data() + skip);
  const std::span<std::byte> rest = workspace.subspan(packed_scratch_bytes(plan.shape));

  const BackendOps& ops = *backend_ops(plan.options.backend);
  ReportSum sum;
  RunReport total, report;
  RunOptions sequence_options = options;
  sequence_options.report = &report;
  for (int64_t b = 0; b < plan.shape.batch; ++b) {
    const int64_t q = inputs.cu_seqlens_q[b], q_end = inputs.cu_seqlens_q[b + 1];
    const int64_t kv = inputs.cu_seqlens_kv[b], kv_end = inputs.cu_seqlens_kv[b + 1];
    if (q == q_end) continue;
    const Result<Plan> sequence = plan_of_sequence(plan, q_end - q, kv_end - kv,
                                                   given_prefix(plan, inputs.keep, b, q_end - q));
    if (!sequence.ok()) return sequence.status();
    AttentionInputs in = inputs;
    in.q = rows_of(inputs.q, q, q_end);
    in.k = rows_of(inputs.k, kv, kv_end);
    in.v = rows_of(inputs.v, kv, kv_end);
    in.cu_seqlens_q = in.cu_seqlens_kv = nullptr;
    in.keep = sets_of(plan, inputs.keep, b, kv_end - kv);
    in.block_mask = mask_of(inputs.block_mask, b);
    // The checks of the whole call hold for its parts.
    TOKENSIEVE_RETURN_IF_ERROR(ops.run(*sequence, in,
                                       {.out = rows_of(outputs.out, q, q_end),
                                        .lse = outputs.lse != nullptr ? lse : nullptr},
                                       rest, sequence_options));
    if (outputs.lse != nullptr) place_lse(lse, outputs.lse + q, heads, q_end - q, rows_q);
    sum.add(sequence->shape, report);
    total.isa = report.isa;
    for (int i = 0; i < kNumStages; ++i) total.stage_ns[i] += report.stage_ns[i];
  }
  sum.finish(total);
  if (options.report != nullptr) *options.report = total;
  return {};
}

}  // namespace tokensieve
