#include "core/c_structs.h"

namespace tokensieve {

// The C enumerations repeat the C++ values.
#define SAME(c, cpp) static_assert(static_cast<int>(c) == static_cast<int>(cpp))
SAME(TOKENSIEVE_OK, StatusCode::kOk);
SAME(TOKENSIEVE_INVALID_ARGUMENT, StatusCode::kInvalidArgument);
SAME(TOKENSIEVE_UNSUPPORTED, StatusCode::kUnsupported);
SAME(TOKENSIEVE_WORKSPACE_TOO_SMALL, StatusCode::kWorkspaceTooSmall);
SAME(TOKENSIEVE_CANCELLED, StatusCode::kCancelled);
SAME(TOKENSIEVE_NOT_FOUND, StatusCode::kNotFound);
SAME(TOKENSIEVE_DATA_ERROR, StatusCode::kDataError);
SAME(TOKENSIEVE_INTERNAL, StatusCode::kInternal);
SAME(TOKENSIEVE_OUT_OF_MEMORY, StatusCode::kOutOfMemory);
SAME(TOKENSIEVE_F32, DType::kF32);
SAME(TOKENSIEVE_F16, DType::kF16);
SAME(TOKENSIEVE_BF16, DType::kBF16);
SAME(TOKENSIEVE_BACKEND_AUTO, Backend::kAuto);
SAME(TOKENSIEVE_BACKEND_REF, Backend::kRef);
SAME(TOKENSIEVE_BACKEND_CPU, Backend::kCpu);
SAME(TOKENSIEVE_BACKEND_CUDA, Backend::kCuda);
SAME(TOKENSIEVE_ISA_AUTO, Isa::kAuto);
SAME(TOKENSIEVE_ISA_AVX512, Isa::kAvx512);
SAME(TOKENSIEVE_ISA_AVX2, Isa::kAvx2);
SAME(TOKENSIEVE_ISA_SSE4, Isa::kSse4);
SAME(TOKENSIEVE_ISA_NEON, Isa::kNeon);
SAME(TOKENSIEVE_ISA_BASELINE, Isa::kBaseline);
SAME(TOKENSIEVE_ISA_AMX, Isa::kAmx);
SAME(TOKENSIEVE_ISA_AMX_EMULATED, Isa::kAmxEmulated);
SAME(TOKENSIEVE_PRODUCTS_AUTO, Products::kAuto);
SAME(TOKENSIEVE_PRODUCTS_EXACT, Products::kExact);
SAME(TOKENSIEVE_PRODUCTS_SPLIT, Products::kSplit);
SAME(TOKENSIEVE_PRODUCTS_BF16, Products::kBf16);
SAME(TOKENSIEVE_PRODUCTS_REASON_NONE, ProductsReason::kNone);
SAME(TOKENSIEVE_PRODUCTS_REASON_NO_TILES, ProductsReason::kNoTiles);
SAME(TOKENSIEVE_PRODUCTS_REASON_PERMISSION, ProductsReason::kPermission);
SAME(TOKENSIEVE_PRODUCTS_REASON_SIGNAL_STACK, ProductsReason::kSignalStack);
SAME(TOKENSIEVE_PRODUCTS_REASON_F32_KEYS, ProductsReason::kF32Keys);
SAME(TOKENSIEVE_PRODUCTS_REASON_NOT_CAUSAL, ProductsReason::kNotCausal);
SAME(TOKENSIEVE_PRODUCTS_REASON_BACKEND, ProductsReason::kBackend);
SAME(TOKENSIEVE_PRODUCTS_REASON_COLUMNS, ProductsReason::kColumns);
SAME(TOKENSIEVE_BUDGET_TAU, BudgetPolicy::kTau);
SAME(TOKENSIEVE_BUDGET_KEEP_RATIO, BudgetPolicy::kKeepRatio);
SAME(TOKENSIEVE_BUDGET_KEEP_COUNT, BudgetPolicy::kKeepCount);
SAME(TOKENSIEVE_SHARE_HEAD, Share::kHead);
SAME(TOKENSIEVE_SHARE_KV, Share::kKv);
SAME(TOKENSIEVE_SHARE_LAYER, Share::kLayer);
SAME(TOKENSIEVE_FILL_ZERO, Fill::kZero);
SAME(TOKENSIEVE_FILL_LOCAL, Fill::kLocal);
SAME(TOKENSIEVE_QUERIES_KEPT, Queries::kKept);
SAME(TOKENSIEVE_QUERIES_ALL, Queries::kAll);
SAME(TOKENSIEVE_ARITHMETIC_FP32, Arithmetic::kFp32);
SAME(TOKENSIEVE_ARITHMETIC_REFERENCE_ROUNDING, Arithmetic::kReferenceRounding);
SAME(TOKENSIEVE_DENSE_BREAK_EVEN, DensePolicy::kBreakEven);
SAME(TOKENSIEVE_DENSE_NEVER, DensePolicy::kNever);
SAME(TOKENSIEVE_BLOCKS_NONE, BlockPattern::kNone);
SAME(TOKENSIEVE_BLOCKS_GIVEN, BlockPattern::kGiven);
SAME(TOKENSIEVE_BLOCKS_SCORES, BlockPattern::kScores);
SAME(TOKENSIEVE_BLOCKS_FLEX, BlockPattern::kFlex);
SAME(TOKENSIEVE_BLOCKS_POOLED, BlockPattern::kPooled);
SAME(TOKENSIEVE_BLOCKS_ANTIDIAGONAL, BlockPattern::kAntidiagonal);
SAME(TOKENSIEVE_BLOCKS_VERTICAL_SLASH, BlockPattern::kVerticalSlash);
SAME(TOKENSIEVE_PATH_DENSE, Path::kDense);
SAME(TOKENSIEVE_PATH_SPARSE, Path::kSparse);
SAME(TOKENSIEVE_DENSE_REASON_NONE, DenseReason::kNone);
SAME(TOKENSIEVE_DENSE_REASON_DISABLED, DenseReason::kDisabled);
SAME(TOKENSIEVE_DENSE_REASON_SHORT_PROMPT, DenseReason::kShortPrompt);
SAME(TOKENSIEVE_DENSE_REASON_FEW_QUERIES, DenseReason::kFewQueries);
SAME(TOKENSIEVE_DENSE_REASON_NOTHING_TO_DROP, DenseReason::kNothingToDrop);
SAME(TOKENSIEVE_DENSE_REASON_BREAK_EVEN, DenseReason::kBreakEven);
SAME(TOKENSIEVE_DENSE_REASON_NOT_SPARSIFIABLE, DenseReason::kNotSparsifiable);
SAME(TOKENSIEVE_DENSE_REASON_NON_FINITE_SCORE, DenseReason::kNonFiniteScore);
SAME(TOKENSIEVE_DENSE_REASON_DECIDED_ON_DEVICE, DenseReason::kDecidedOnDevice);
SAME(TOKENSIEVE_DENSE_REASON_LAYER_NOT_LISTED, DenseReason::kLayerNotListed);
SAME(TOKENSIEVE_DENSE_REASON_BELOW_MIN_TOKENS, DenseReason::kBelowMinTokens);
SAME(TOKENSIEVE_DENSE_REASON_FEW_ROWS, DenseReason::kFewRows);
SAME(TOKENSIEVE_STAGE_SCORE, Stage::kScore);
SAME(TOKENSIEVE_STAGE_BUDGET, Stage::kBudget);
SAME(TOKENSIEVE_STAGE_SELECT, Stage::kSelect);
SAME(TOKENSIEVE_STAGE_COMPACT, Stage::kCompact);
SAME(TOKENSIEVE_STAGE_ATTEND, Stage::kAttend);
SAME(TOKENSIEVE_STAGE_SCATTER, Stage::kScatter);
SAME(TOKENSIEVE_STAGE_ESTIMATE, Stage::kEstimate);
SAME(TOKENSIEVE_NUM_STAGES, kNumStages);
#undef SAME

Status from_c(const tokensieve_shape* in, AttentionShape& out) {
  tokensieve_shape s;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, "shape", s));
  if (s.reserved != 0) {
    return Status::error(StatusCode::kUnsupported, "shape.reserved is %d; allowed: 0", s.reserved);
  }
  out = {.batch = s.batch,
         .seqlen_q = s.seqlen_q,
         .seqlen_kv = s.seqlen_kv,
         .num_q_heads = s.num_q_heads,
         .num_kv_heads = s.num_kv_heads,
         .head_dim = s.head_dim,
         .dtype = static_cast<DType>(s.dtype),
         .kv_dtype = static_cast<DType>(s.kv_dtype),
         .out_dtype = static_cast<DType>(s.out_dtype),
         .sm_scale = s.sm_scale,
         .softcap = s.softcap,
         .causal = s.causal != 0,
         .packed = s.packed != 0};
  return {};
}

Status from_c(const tokensieve_select* in, SelectConfig& out) {
  out = {};
  if (in == nullptr) return {};
  tokensieve_select c;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, "select", c));
  if (c.reserved != 0) {
    return Status::error(StatusCode::kUnsupported, "select.reserved is %d; allowed: 0", c.reserved);
  }
  out = {.enabled = c.enabled != 0,
         .budget = static_cast<BudgetPolicy>(c.budget),
         .tau = c.tau,
         .keep_ratio = c.keep_ratio,
         .keep_count = c.keep_count,
         .obs_window = c.obs_window,
         .pool_width = c.pool_width,
         .min_keep = c.min_keep,
         .protect_first = c.protect_first,
         .min_drop = c.min_drop,
         .share = static_cast<Share>(c.share),
         .fill = static_cast<Fill>(c.fill),
         .queries = static_cast<Queries>(c.queries),
         .local_window = c.local_window,
         .sinks = c.sinks,
         .arithmetic = static_cast<Arithmetic>(c.arithmetic),
         .dense_policy = static_cast<DensePolicy>(c.dense_policy)};
  return {};
}

Status from_c(const tokensieve_blocks* in, BlockConfig& out) {
  out = {};
  if (in == nullptr) return {};
  tokensieve_blocks b;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, "blocks", b));
  if (b.reserved != 0) {
    return Status::error(StatusCode::kUnsupported, "blocks.reserved is %d; allowed: 0", b.reserved);
  }
  out = {.pattern = static_cast<BlockPattern>(b.pattern),
         .share = static_cast<Share>(b.share),
         .gamma = b.gamma,
         .flex_tau = b.flex_tau,
         .min_budget = b.min_budget,
         .max_budget = b.max_budget,
         .threshold = b.threshold,
         .stride = b.stride,
         .alpha = b.alpha,
         .sink_tiles = b.sink_tiles,
         .window_tiles = b.window_tiles,
         .last_tiles = b.last_tiles,
         .dense_rows = b.dense_rows,
         .verticals = b.verticals,
         .slashes = b.slashes,
         .slash_ratio = b.slash_ratio};
  return {};
}

Status from_c(const tokensieve_options* in, PlanOptions& out) {
  out = {};
  if (in == nullptr) return {};
  tokensieve_options o;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, "options", o));
  out = {.backend = static_cast<Backend>(o.backend),
         .isa = static_cast<Isa>(o.isa),
         .num_threads = o.num_threads,
         .num_ranks = o.num_ranks == 0 ? 1 : o.num_ranks,  // an older program's
         .rank = o.rank,
         .products = static_cast<Products>(o.products),
         .require_products = o.require_products != 0};
  return {};
}

Status from_c(const tokensieve_tensor* in, const char* name, TensorView& out) {
  tokensieve_tensor t;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, name, t));
  out.data = t.data;
  out.dtype = static_cast<DType>(t.dtype);
  std::copy_n(t.shape, 4, out.shape.begin());
  std::copy_n(t.strides, 4, out.strides.begin());
  return {};
}

Status from_c(const tokensieve_inputs* in, AttentionInputs& out) {
  tokensieve_inputs i;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, "inputs", i));
  TOKENSIEVE_RETURN_IF_ERROR(from_c(i.q, "q", out.q));
  TOKENSIEVE_RETURN_IF_ERROR(from_c(i.k, "k", out.k));
  TOKENSIEVE_RETURN_IF_ERROR(from_c(i.v, "v", out.v));
  out.sink_logits = i.sink_logits;
  out.kv_indices = i.kv_indices;
  out.bias = i.bias;
  out.bias_row_stride = i.bias_row_stride;
  out.bias_slopes = i.bias_slopes;
  out.cu_seqlens_q = i.cu_seqlens_q;
  out.cu_seqlens_kv = i.cu_seqlens_kv;
  out.block_scores = i.block_scores;
  out.block_thresholds = i.block_thresholds;
  out.block_sizes = i.block_sizes;
  if (i.block_mask != nullptr) {
    TOKENSIEVE_RETURN_IF_ERROR(from_c(i.block_mask, "block_mask", out.block_mask));
    if (out.block_mask.bits == nullptr) {
      return Status::error(StatusCode::kInvalidArgument,
                           "block_mask.bits is NULL; pass the bits, or leave inputs.block_mask "
                           "NULL");
    }
  }
  if (i.keep == nullptr) return {};
  TOKENSIEVE_RETURN_IF_ERROR(from_c(i.keep, out.keep));
  if (out.keep.indices != nullptr) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "keep.indices is NULL; pass the sets, or leave inputs.keep NULL");
}

Status from_c(const tokensieve_outputs* in, AttentionOutputs& out) {
  tokensieve_outputs o;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, "outputs", o));
  out.lse = o.lse;
  return from_c(o.out, "out", out.out);
}

Status from_c(const tokensieve_keep_set* in, KeepSet& out) {
  tokensieve_keep_set k;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, "keep", k));
  out = {.indices = k.indices, .capacity = k.capacity, .count = k.count};
  return {};
}

Status from_c(const tokensieve_block_mask* in, const char* name, BlockMask& out) {
  tokensieve_block_mask m;
  TOKENSIEVE_RETURN_IF_ERROR(read_struct(in, name, m));
  out = {.bits = m.bits, .row_tiles = m.row_tiles, .words = m.words, .num_masks = m.num_masks};
  return {};
}

tokensieve_shape to_c(const AttentionShape& in) {
  return {.struct_size = sizeof(tokensieve_shape),
          .causal = in.causal,
          .batch = in.batch,
          .seqlen_q = in.seqlen_q,
          .seqlen_kv = in.seqlen_kv,
          .num_q_heads = in.num_q_heads,
          .num_kv_heads = in.num_kv_heads,
          .head_dim = in.head_dim,
          .dtype = static_cast<int32_t>(in.dtype),
          .kv_dtype = static_cast<int32_t>(in.kv_dtype),
          .out_dtype = static_cast<int32_t>(in.out_dtype),
          .sm_scale = in.sm_scale,
          .softcap = in.softcap,
          .packed = in.packed};
}

tokensieve_select to_c(const SelectConfig& in) {
  return {.struct_size = sizeof(tokensieve_select),
          .enabled = in.enabled,
          .budget = static_cast<int32_t>(in.budget),
          .share = static_cast<int32_t>(in.share),
          .fill = static_cast<int32_t>(in.fill),
          .queries = static_cast<int32_t>(in.queries),
          .arithmetic = static_cast<int32_t>(in.arithmetic),
          .dense_policy = static_cast<int32_t>(in.dense_policy),
          .tau = in.tau,
          .keep_ratio = in.keep_ratio,
          .min_drop = in.min_drop,
          .keep_count = in.keep_count,
          .min_keep = in.min_keep,
          .obs_window = in.obs_window,
          .pool_width = in.pool_width,
          .protect_first = in.protect_first,
          .local_window = in.local_window,
          .sinks = in.sinks};
}

tokensieve_blocks to_c(const BlockConfig& in) {
  return {.struct_size = sizeof(tokensieve_blocks),
          .pattern = static_cast<int32_t>(in.pattern),
          .share = static_cast<int32_t>(in.share),
          .stride = in.stride,
          .gamma = in.gamma,
          .flex_tau = in.flex_tau,
          .threshold = in.threshold,
          .alpha = in.alpha,
          .min_budget = in.min_budget,
          .max_budget = in.max_budget,
          .dense_rows = in.dense_rows,
          .sink_tiles = in.sink_tiles,
          .window_tiles = in.window_tiles,
          .last_tiles = in.last_tiles,
          .verticals = in.verticals,
          .slashes = in.slashes,
          .slash_ratio = in.slash_ratio};
}

tokensieve_options to_c(const PlanOptions& in) {
  return {.struct_size = sizeof(tokensieve_options),
          .backend = static_cast<int32_t>(in.backend),
          .isa = static_cast<int32_t>(in.isa),
          .num_threads = in.num_threads,
          .num_ranks = in.num_ranks,
          .rank = in.rank,
          .products = static_cast<int32_t>(in.products),
          .require_products = in.require_products};
}

tokensieve_report to_c(const RunReport& in) {
  tokensieve_report out = {.struct_size = sizeof(tokensieve_report),
                           .path = static_cast<int32_t>(in.path),
                           .reason = static_cast<int32_t>(in.reason),
                           .isa = static_cast<int32_t>(in.isa),
                           .keep_count = in.keep_count,
                           .keep_ratio = in.keep_ratio,
                           .work = in.work,
                           .block_density = in.block_density,
                           .products = static_cast<int32_t>(in.products),
                           .products_reason = static_cast<int32_t>(in.products_reason)};
  std::copy_n(in.stage_ns, kNumStages, out.stage_ns);
  return out;
}

tokensieve_plan_info to_c(const Plan& in) {
  const bool sparse = in.path == Path::kSparse;
  return {.struct_size = sizeof(tokensieve_plan_info),
          .path = static_cast<int32_t>(in.path),
          .reason = static_cast<int32_t>(in.reason),
          .backend = static_cast<int32_t>(in.options.backend),
          .isa = static_cast<int32_t>(in.options.isa),
          .num_sets = in.num_sets,
          .prefix_len = in.prefix_len,
          .keep_capacity = sparse ? in.keep_capacity() : 0,
          .workspace_bytes = in.workspace,
          .block_pattern = static_cast<int32_t>(in.blocks.pattern),
          .num_masks = in.num_masks,
          .row_tiles = in.row_tiles,
          .mask_words = in.mask_words,
          .products = static_cast<int32_t>(in.options.products),
          .products_reason = static_cast<int32_t>(in.products_reason)};
}

}  // namespace tokensieve
