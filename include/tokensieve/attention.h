// Attention over all or over selected tokens: plan once, run many.
//
//   Plan plan = make_plan(shape, select, options).value();
//   std::vector<std::byte> workspace(workspace_bytes(plan));
//   Status status = run(plan, {.q = q, .k = k, .v = v}, {.out = out}, workspace, executor);
//
// Shapes are [batch, seq, head, dim] (see tensor.h), queries are the last seqlen_q tokens of the
// seqlen_kv keys (bottom-right causality), RoPE is applied before. Source: arXiv 2602.03216 and
// docs/method.md.
//
// Backend::kCuda: every pointer of a call (tensors, lse, sink_logits, cu_seqlens, KeepSet, the
// workspace) is device memory of the current device. Calls enqueue work on RunOptions::stream and
// return at once: they never wait for the device, allocate or read device memory, so that a CUDA
// graph can capture them and replay them with other contents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tokensieve/backend.h"
#include "tokensieve/blocks.h"
#include "tokensieve/executor.h"
#include "tokensieve/export.h"
#include "tokensieve/select.h"
#include "tokensieve/status.h"
#include "tokensieve/tensor.h"

namespace tokensieve {

struct AttentionShape {
  int64_t batch = 1;
  int64_t seqlen_q = 0;   // 1 <= seqlen_q <= seqlen_kv
  int64_t seqlen_kv = 0;  // < 2^31
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;  // divides num_q_heads
  int32_t head_dim = 0;      // a multiple of 16, 16..256
  DType dtype = DType::kF32;      // of q
  DType kv_dtype = DType::kF32;   // of k and v
  DType out_dtype = DType::kF32;  // of out
  float sm_scale = 0.0f;          // logit factor; 0 means 1 / sqrt(head_dim)
  float softcap = 0.0f;           // logits become softcap * tanh(logit / softcap); 0 means off
  bool causal = true;             // false needs a bias or is full attention; always dense
  // Packed variable lengths: tensors are [1, rows of all sequences, head, dim], and
  // AttentionInputs::cu_seqlens_q and cu_seqlens_kv say where each of `batch` sequences begins;
  // seqlen_q and seqlen_kv are the longest.
  bool packed = false;
};

struct PlanOptions {
  Backend backend = Backend::kAuto;
  Isa isa = Isa::kAuto;  // CPU backend
  int num_threads = 1;   // most threads of the executors that run() will get, >= 1
  // Tensor parallel: a layer's heads are split over num_ranks calls. The shape has this rank's,
  // which are those from rank * num_q_heads on; all ranks have equally many. Budget, share = layer
  // and dense-or-sparse then follow from all heads, exactly as if one call had them: see
  // RunOptions::all_gather.
  int32_t num_ranks = 1;
  int32_t rank = 0;
  // The wish: where it cannot be had the plan's are exact, for Plan::products_reason. A process
  // that plans with isa amx asks the system for tiles, once and for all: later alternate signal
  // stacks must then have room for them (sysconf(_SC_SIGSTKSZ)). run() leaves tiles in their
  // initial state; a caller's own tile configuration is lost.
  Products products = Products::kAuto;
  bool require_products = false;  // an error instead
};

// Which path a call took.
enum class Path : int32_t { kDense = 0, kSparse = 1 };

// Why it took the dense path.
enum class DenseReason : int32_t {
  kNone = 0,          // it ran sparse
  kDisabled,          // SelectConfig::enabled is false, or tau is 0
  kShortPrompt,       // seqlen_kv <= min_keep + obs_window
  kFewQueries,        // fewer queries than obs_window
  kNothingToDrop,     // the budget keeps every token
  kBreakEven,         // the cost model says that sparse cannot win
  kNotSparsifiable,   // non-causal or biased attention: selection is not defined
  kNonFiniteScore,    // NaN or inf in q or k: dense keeps the damage in its head
  kDecidedOnDevice,   // CUDA: nothing to drop, break-even or a non-finite score; no record is kept
  // From choose() (profile.h):
  kLayerNotListed,    // the profile does not list the layer
  kBelowMinTokens,    // fewer keys than the profile's min_tokens
  kFewRows,           // a chunk of fewer than 4 * obs_window queries
};

TOKENSIEVE_API const char* dense_reason_text(DenseReason reason);

enum class Stage : int32_t {
  kScore = 0, kBudget, kSelect, kCompact, kAttend, kScatter, kEstimate
};
inline constexpr int kNumStages = 7;
TOKENSIEVE_API const char* stage_name(Stage stage);

// A plan is a plain value: copy it, keep it, use it from several threads at once.
struct TOKENSIEVE_API Plan {
  AttentionShape shape;  // sm_scale resolved
  SelectConfig select;
  PlanOptions options;  // backend, isa and products resolved
  // kSparse: selection will be tried. kDense: every run of this plan is dense, for `reason`.
  Path path = Path::kDense;
  DenseReason reason = DenseReason::kDisabled;
  int64_t prefix_len = 0;  // tokens that may be dropped; packed: at most, of any sequence
  int64_t max_keep = 0;    // most prefix tokens of a set that runs sparse
  int32_t num_sets = 0;    // index sets per sequence: num_q_heads, num_kv_heads or 1
  // pattern = kNone: no block mask takes part, be it by choice or because estimating one cannot
  // win. What a mask holds (blocks.h): room for every tile, so that a sequence fits however many
  // tokens it keeps.
  BlockConfig blocks;
  int32_t num_masks = 0;   // per sequence: num_q_heads, num_kv_heads or 1; 0 without a mask
  int64_t row_tiles = 0;
  int64_t mask_words = 0;
  size_t workspace = 0;    // bytes
  ProductsReason products_reason = ProductsReason::kNone;

  // Tokens after the prefix, which are always kept; packed: at least, of any sequence. Those of a
  // sequence are its newest obs_window, with queries = all its queries.
  int64_t suffix_len() const;
  // Most tokens of a set: what KeepSet::capacity must hold.
  int64_t keep_capacity() const;
};

// Pure: looks at no data, allocates nothing. Errors: kInvalidArgument, kUnsupported.
TOKENSIEVE_API Result<Plan> make_plan(const AttentionShape& shape, const SelectConfig& select,
                                      const PlanOptions& options = {});
// With block masks: over all tokens (select.enabled = false) or over the selected ones.
TOKENSIEVE_API Result<Plan> make_plan(const AttentionShape& shape, const SelectConfig& select,
                                      const BlockConfig& blocks, const PlanOptions& options = {});

// Bytes of workspace that run() and select_tokens() need, any alignment.
TOKENSIEVE_API size_t workspace_bytes(const Plan& plan);

// RunReport::work before the run, of a sequence that keeps `keep` prefix tokens; 1 where that means
// dense. Exact but for local fill: an estimate, as if these tokens were evenly spread, which chunks
// of a long prompt exceed (docs/chunks.md).
TOKENSIEVE_API double work_of(const Plan& plan, int64_t keep);

// Prefix tokens that a run will keep (dense plans: 0), or -1: the tau budget decides at run time.
TOKENSIEVE_API int64_t planned_keep(const Plan& plan);

// Kept tokens of every set, in the caller's memory.
struct KeepSet {
  // i32 [batch, num_sets, capacity]: ascending original positions; the first `count[b]` of a row
  // count.
  int32_t* indices = nullptr;
  int64_t capacity = 0;      // >= plan.keep_capacity(); given sets: >= count
  int64_t* count = nullptr;  // i64 [batch]: kept tokens, those after the prefix included
};

struct AttentionInputs {
  TensorView q;  // [batch, seqlen_q, num_q_heads, head_dim]
  TensorView k;  // [batch, seqlen_kv, num_kv_heads, head_dim]; with kv_indices seq may be longer
  TensorView v;  // as k
  const float* sink_logits = nullptr;  // f32 [num_q_heads]: extra softmax mass per head, or null
  // i32 [batch, seqlen_kv]: token j is row kv_indices[j] of k and v (a token-level page table), or
  // null: token j is row j. Rows that it does not name are never read.
  const int32_t* kv_indices = nullptr;
  // f16 additive bias, row i of bias + i * bias_row_stride, indexed by the k row (not the token),
  // the same for all heads and sequences, times bias_slopes[head] if given (ALiBi); -inf masks.
  // A plan that runs with a bias must have causal = false.
  const uint16_t* bias = nullptr;
  int64_t bias_row_stride = 0;
  const float* bias_slopes = nullptr;  // f32 [num_q_heads] or null
  // Packed plans: i32 [batch + 1] ascending from 0 to the rows of q and of k; sequence b has rows
  // cu_seqlens[b] to cu_seqlens[b + 1] - 1. Its queries are its last tokens.
  const int32_t* cu_seqlens_q = nullptr;
  const int32_t* cu_seqlens_kv = nullptr;
  // Given sets (indices not null; only read): run() skips score, budget and select and keeps these
  // tokens. Every set ends with all tokens after the prefix (see Plan::prefix_len) and has at most
  // plan.max_keep before; min_keep, protect_first and min_drop bound the library's own choice only.
  // count = the sequence's length: dense, no indices. The plan must be sparse; to be free in what
  // to keep make it with BudgetPolicy::kKeepCount, keep_count = the most prefix tokens of a set,
  // min_keep = 0 and DensePolicy::kNever.
  KeepSet keep;
  // BlockPattern::kGiven; only read. With selected tokens `keep` must be given, too: nobody can
  // know the tiles of tokens that are yet to be chosen.
  BlockMask block_mask;
  // BlockPattern::kScores: f32 [batch, num_masks, row_tiles, key tiles of seqlen_kv]; with selected
  // tokens as block_mask.
  const float* block_scores = nullptr;
  // f32 [num_masks] or null: each mask's own gamma, alpha or threshold.
  const float* block_thresholds = nullptr;
  // kVerticalSlash: i32 [num_q_heads, 2] or null: each head's own verticals, at most the plan's,
  // and slashes. The plan's cost model knows the plan's slashes only.
  const int32_t* block_sizes = nullptr;
};

struct AttentionOutputs {
  TensorView out;        // [batch, seqlen_q, num_q_heads, head_dim]; every row is written
  // f32 [batch, num_q_heads, seqlen_q] (packed: [num_q_heads, rows of q]), natural log; or null.
  // Zero-fill rows and fully masked rows get -inf.
  float* lse = nullptr;
};

// What a run did. CUDA: what is known without waiting: `path` and `reason` are the plan's,
// keep_count is -1 and keep_ratio and work are NaN where the device decides (a sparse plan; with
// block masks work and block_density, too), stage_ns is 0. read_report() waits and reads them.
struct RunReport {
  Path path = Path::kDense;  // kSparse if any sequence ran sparse
  DenseReason reason = DenseReason::kNone;  // of the first sequence that ran dense
  int64_t keep_count = 0;     // kept tokens of all sequences together (dense: all)
  double keep_ratio = 1.0;    // keep_count / (batch * seqlen_kv)
  double work = 0;  // computed (query, key) pairs, mean over heads / those of dense attention
  // Visited tiles / those that hold a visible pair, of the pass that a block mask steers; else 1.
  double block_density = 1.0;
  int64_t stage_ns[kNumStages] = {};  // wall time; fused stages count in attend
  Isa isa = Isa::kAuto;               // CPU backend: the instruction set that really ran
  // The plan's. Tiles of keys or queries that hold NaN or inf run in f32 whatever they are.
  Products products = Products::kExact;
  ProductsReason products_reason = ProductsReason::kNone;
};

struct RunOptions {
  Executor* executor = nullptr;  // null: serial
  bool (*should_cancel)(void* context) = nullptr;  // between tasks; any thread, one at a time
  void* cancel_context = nullptr;
  RunReport* report = nullptr;
  void* stream = nullptr;  // CUDA: the cudaStream_t to enqueue on; null: the default stream
  // Plans with num_ranks > 1 that choose tokens need it: run() and select_tokens() call it once per
  // sequence, between score and budget, on the caller's thread. `data` is num_ranks parts of
  // `bytes`, of which part `rank` is filled; it fills the others with those of the other ranks (an
  // all-gather in place) and returns true. CUDA: device memory inside the workspace; it enqueues on
  // `stream` and returns. Ranks must make the same calls in the same order: one that cancels or
  // fails leaves the others waiting.
  bool (*all_gather)(void* context, void* data, size_t bytes, void* stream) = nullptr;
  void* gather_context = nullptr;
};

// Computes out. Never allocates, prints or keeps a reference. Bit-identical for equal inputs,
// whatever the executor. Errors: kInvalidArgument (null, shape, dtype, stride, overlap),
// kWorkspaceTooSmall, kCancelled (out is then unspecified); CUDA: kUnsupported (what its kernels
// cannot do), kInternal (a launch failed).
TOKENSIEVE_API Status run(const Plan& plan, const AttentionInputs& inputs,
                          const AttentionOutputs& outputs, std::span<std::byte> workspace,
                          const RunOptions& options = {});

// CUDA: waits for `stream` and fills `report` with what the last run() or select_tokens() of this
// plan on this workspace chose; the workspace must not have been used otherwise since. Other
// backends fill RunOptions::report completely: kUnsupported.
TOKENSIEVE_API Status read_report(const Plan& plan, std::span<std::byte> workspace, void* stream,
                                  RunReport* report);

// Stages score, budget and select alone; inputs.v is not read. A sequence that should run dense
// gets count = seqlen_kv and no indices, and the reason is in the report. Engines that bring their
// own attend use select_tokens -> compact -> attend -> scatter. These three do not take packed
// plans. CUDA: keep.indices and keep.count are written, and later read, on the device; their
// contents are not checked (nor are those of AttentionInputs::keep; a count that no set of the plan
// can have runs dense).
TOKENSIEVE_API Status select_tokens(const Plan& plan, const AttentionInputs& inputs,
                                    const KeepSet& keep, std::span<std::byte> workspace,
                                    const RunOptions& options = {});

// The block mask of a plan with an estimated one (kScores included): inputs as of run(), v is not
// read; a sparse plan needs inputs.keep. Every bit of `mask` is written. Not for packed plans.
TOKENSIEVE_API Status estimate_blocks(const Plan& plan, const AttentionInputs& inputs,
                                      const BlockMask& mask, std::span<std::byte> workspace,
                                      const RunOptions& options = {});

// Gathers rows of x [batch, seq, heads, dim] into compact [batch, capacity, num_heads_out, dim]:
// row r of output head h is x[keep.indices[b, set(h), r], h * heads / num_heads_out]. x and
// compact have the same dtype. For q pass num_heads_out = num_q_heads; rows are positions in the
// whole sequence, so q must hold all of it. A sequence whose count is seqlen_kv runs dense and is
// left alone.
TOKENSIEVE_API Status compact(const Plan& plan, const TensorView& x, const KeepSet& keep,
                              const TensorView& compacted, const RunOptions& options = {});

// Writes compacted rows back: out[b, indices[b, set(h), r], h] = compacted[b, r, h]; every other
// row becomes 0. Sequences that run dense are left alone.
TOKENSIEVE_API Status scatter(const Plan& plan, const TensorView& compacted, const KeepSet& keep,
                              const TensorView& out, const RunOptions& options = {});

}  // namespace tokensieve
