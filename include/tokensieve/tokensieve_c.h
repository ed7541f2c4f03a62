/* C ABI of tokensieve: the calls of attention.h over plain C structs.
 *
 *   tokensieve_shape shape;       tokensieve_shape_init(&shape);    shape.seqlen_q = ...
 *   tokensieve_select select;     tokensieve_select_init(&select);
 *   tokensieve_plan* plan = NULL;
 *   tokensieve_make_plan(&shape, &select, NULL, &plan, &status);
 *   tokensieve_run(plan, &inputs, &outputs, workspace, workspace_bytes, NULL, &status);
 *   tokensieve_plan_free(plan);
 *
 * Conventions
 *   - Every struct starts with struct_size, which its _init function (TOKENSIEVE_INIT) sets with
 *     the defaults, and grows at its end only; tensor and executor never do. Old programs work with
 *     a new library; an old one refuses (UNSUPPORTED) fields that it does not know.
 *   - Calls return a tokensieve_code (0: ok). The last argument, which may be NULL, receives the
 *     code and a message that names the value, what is allowed and the fix.
 *   - Enumerations travel as int32_t and have the values of the C++ ones.
 *   - Nothing throws, prints, aborts or keeps a pointer; only _create and make_plan allocate.
 *   - A plan is immutable: any number of threads may run it at once, each with its own outputs
 *     and workspace. */
#ifndef TOKENSIEVE_C_H_
#define TOKENSIEVE_C_H_

#include <stddef.h>
#include <stdint.h>

#include "tokensieve/export.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status ----------------------------------------------------------------------------- */

enum tokensieve_code {
  TOKENSIEVE_OK = 0,
  TOKENSIEVE_INVALID_ARGUMENT = 1,    /* a value is wrong: shape, stride, null pointer, NaN */
  TOKENSIEVE_UNSUPPORTED = 2,         /* valid, but nothing in this build can do it */
  TOKENSIEVE_WORKSPACE_TOO_SMALL = 3, /* less than tokensieve_workspace_bytes(plan) */
  TOKENSIEVE_CANCELLED = 4,           /* should_cancel returned non-zero; outputs are unspecified */
  TOKENSIEVE_NOT_FOUND = 5,           /* a file, model or library is missing */
  TOKENSIEVE_DATA_ERROR = 6,          /* a file is truncated, malformed or for something else */
  TOKENSIEVE_INTERNAL = 7,            /* a bug in tokensieve */
  TOKENSIEVE_OUT_OF_MEMORY = 8
};

typedef struct tokensieve_status {
  uint32_t struct_size;
  int32_t code;      /* enum tokensieve_code */
  char message[320]; /* always terminated; "" if ok */
} tokensieve_status;

TOKENSIEVE_INIT(status)
TOKENSIEVE_API const char* tokensieve_code_name(int32_t code);
TOKENSIEVE_API const char* tokensieve_version(void); /* "MAJOR.MINOR.PATCH" */

/* ---- Tensors ---------------------------------------------------------------------------- */

enum tokensieve_dtype { TOKENSIEVE_F32 = 0, TOKENSIEVE_F16 = 1, TOKENSIEVE_BF16 = 2 };

/* Shape and strides are in the order [batch, seq, head, dim] whatever the memory layout; strides
 * count elements; strides[3] is 1. Inputs are only read, although data is not const. */
typedef struct tokensieve_tensor {
  uint32_t struct_size;
  int32_t dtype; /* enum tokensieve_dtype */
  void* data;
  int64_t shape[4];
  int64_t strides[4];
} tokensieve_tensor;

/* Contiguous [batch, seq, head, dim] and [batch, head, seq, dim]. */
TOKENSIEVE_API void tokensieve_tensor_init_bshd(tokensieve_tensor* tensor, const void* data,
                                                int32_t dtype, int64_t batch, int64_t seq,
                                                int64_t heads, int64_t dim);
TOKENSIEVE_API void tokensieve_tensor_init_bhsd(tokensieve_tensor* tensor, const void* data,
                                                int32_t dtype, int64_t batch, int64_t seq,
                                                int64_t heads, int64_t dim);

/* ---- Backends --------------------------------------------------------------------------- */

enum tokensieve_backend {
  TOKENSIEVE_BACKEND_AUTO = 0, /* cpu */
  TOKENSIEVE_BACKEND_REF = 1,  /* the double-precision oracle: slow, for tests */
  TOKENSIEVE_BACKEND_CPU = 2,
  TOKENSIEVE_BACKEND_CUDA = 3  /* Hopper; pointers are device memory, calls do not wait */
};

enum tokensieve_isa {
  TOKENSIEVE_ISA_AUTO = 0, /* the best of this CPU, unless TOKENSIEVE_ISA names one */
  TOKENSIEVE_ISA_AVX512 = 1, TOKENSIEVE_ISA_AVX2 = 2, TOKENSIEVE_ISA_SSE4 = 3,
  TOKENSIEVE_ISA_NEON = 4, TOKENSIEVE_ISA_BASELINE = 5,
  TOKENSIEVE_ISA_AMX = 6, TOKENSIEVE_ISA_AMX_EMULATED = 7 /* of products other than exact */
};

TOKENSIEVE_API const char* tokensieve_backend_name(int32_t backend);
TOKENSIEVE_API int32_t tokensieve_backend_available(int32_t backend); /* 0; 1: it can run here */
TOKENSIEVE_API int32_t tokensieve_backend_compiled(int32_t backend);  /* 0; 1: in this build */
TOKENSIEVE_API const char* tokensieve_isa_name(int32_t isa);
TOKENSIEVE_API int32_t tokensieve_isa_from_name(const char* name, int32_t* isa,
                                                tokensieve_status* status);
/* Instruction sets of f32 that this build and this CPU have, best first. Writes up to `capacity` of
 * them (isas may be NULL when capacity is 0); returns how many there are. */
TOKENSIEVE_API int32_t tokensieve_supported_isas(int32_t* isas, int32_t capacity);
TOKENSIEVE_API int32_t tokensieve_isa_supported(int32_t isa); /* 0; 1: also of tiles */

/* ---- Executor --------------------------------------------------------------------------- */

typedef void (*tokensieve_task)(void* task_context, int64_t index, int32_t thread);

/* How a call runs its tasks in parallel; both callbacks get `context`. */
typedef struct tokensieve_executor {
  uint32_t struct_size;
  void* context;
  int32_t (*num_threads)(void* context); /* most threads that call a task at once, >= 1 */
  /* Calls task(task_context, index, thread) once for every index in [0, count), in ascending
   * order of start, 0 <= thread < num_threads, each thread number on one thread at a time.
   * Returns when all are done. */
  void (*run)(void* context, int64_t count, tokensieve_task task, void* task_context);
} tokensieve_executor;

TOKENSIEVE_INIT(executor)

/* The built-in pool: num_threads - 1 workers (fewer if the system refuses to start them) plus the
 * calling thread; 0: the hardware's concurrency. One run at a time; free it after the last one. */
typedef struct tokensieve_thread_pool tokensieve_thread_pool;
TOKENSIEVE_API int32_t tokensieve_thread_pool_create(int32_t num_threads,
                                                     tokensieve_thread_pool** pool,
                                                     tokensieve_status* status);
TOKENSIEVE_API void tokensieve_thread_pool_free(tokensieve_thread_pool* pool); /* or NULL */
/* Fills `executor` with one that runs on `pool`. */
TOKENSIEVE_API void tokensieve_thread_pool_executor(tokensieve_thread_pool* pool,
                                                    tokensieve_executor* executor);

/* ---- Plan ------------------------------------------------------------------------------- */

typedef struct tokensieve_shape {
  uint32_t struct_size;
  int32_t causal;       /* default 1; 0 needs a bias or is full attention: always dense */
  int64_t batch;        /* default 1 */
  int64_t seqlen_q;     /* 1..seqlen_kv: queries are the last tokens of the keys */
  int64_t seqlen_kv;    /* < 2^31 */
  int32_t num_q_heads;  /* a multiple of num_kv_heads */
  int32_t num_kv_heads;
  int32_t head_dim;     /* a multiple of 16, 16..256 */
  int32_t dtype;        /* of q; default f32 */
  int32_t kv_dtype;     /* of k and v; default f32 */
  int32_t out_dtype;    /* of out; default f32 */
  float sm_scale;       /* logit factor; 0 (default): 1 / sqrt(head_dim) */
  float softcap;        /* logits become softcap * tanh(logit / softcap); 0 (default): off */
  int32_t packed;       /* default 0; 1: tensors are [1, rows of all sequences, head, dim], see
                           cu_seqlens_q; seqlen_q and seqlen_kv are the longest of `batch` */
  int32_t reserved;     /* 0 */
} tokensieve_shape;

enum tokensieve_budget {
  TOKENSIEVE_BUDGET_TAU = 0,        /* drop while the dropped share of score mass is < tau */
  TOKENSIEVE_BUDGET_KEEP_RATIO = 1, /* floor(keep_ratio * prefix_len) */
  TOKENSIEVE_BUDGET_KEEP_COUNT = 2
};
enum tokensieve_share {
  TOKENSIEVE_SHARE_HEAD = 0, /* one set per query head (paper) */
  TOKENSIEVE_SHARE_KV = 1,   /* one set per kv head */
  TOKENSIEVE_SHARE_LAYER = 2 /* one set for all heads */
};
enum tokensieve_fill {
  TOKENSIEVE_FILL_ZERO = 0, /* rows of dropped tokens are 0 (paper) */
  TOKENSIEVE_FILL_LOCAL = 1 /* exact attention over the sinks and a window of neighbours */
};
enum tokensieve_queries {
  TOKENSIEVE_QUERIES_KEPT = 0, /* queries are dropped with their keys: whole prompts */
  TOKENSIEVE_QUERIES_ALL = 1   /* only past keys are dropped: chunked prefill */
};
enum tokensieve_arithmetic {
  TOKENSIEVE_ARITHMETIC_FP32 = 0,
  TOKENSIEVE_ARITHMETIC_REFERENCE_ROUNDING = 1 /* bf16 where the official code rounds */
};
enum tokensieve_dense_policy {
  TOKENSIEVE_DENSE_BREAK_EVEN = 0, /* dense when sparse cannot win */
  TOKENSIEVE_DENSE_NEVER = 1       /* sparse whenever it is well defined */
};

/* Which tokens a sparse layer keeps, and what dropped rows get; see select.h. */
typedef struct tokensieve_select {
  uint32_t struct_size;
  int32_t enabled;       /* default 1; 0: dense attention */
  int32_t budget;        /* enum tokensieve_budget; default tau */
  int32_t share;         /* enum tokensieve_share; default head */
  int32_t fill;          /* enum tokensieve_fill; default zero */
  int32_t queries;       /* enum tokensieve_queries; default kept */
  int32_t arithmetic;    /* enum tokensieve_arithmetic; default fp32 */
  int32_t dense_policy;  /* enum tokensieve_dense_policy; default break_even */
  double tau;            /* [0, 1); default 0.005; 0 runs dense */
  double keep_ratio;     /* (0, 1]; default 0.2 */
  double min_drop;       /* [0, 1): dense unless this share of the prefix is dropped; default 0 */
  int64_t keep_count;    /* >= 1; default 1024 */
  int64_t min_keep;      /* >= 0: floor on the kept prefix tokens; default 1024 */
  int32_t obs_window;    /* 1..4096 last queries that score, always kept; default 128 */
  int32_t pool_width;    /* odd, 1..1023; default 7 */
  int32_t protect_first; /* >= 0: first tokens that are always kept; default 0 */
  int32_t local_window;  /* a multiple of 64: local fill's neighbours; default 512 */
  int32_t sinks;         /* 0..64: local fill's first tokens; default 4 */
  int32_t reserved;      /* 0 */
} tokensieve_select;

typedef struct tokensieve_options {
  uint32_t struct_size;
  int32_t backend;     /* enum tokensieve_backend; default auto */
  int32_t isa;         /* enum tokensieve_isa; default auto */
  int32_t num_threads; /* most threads of the executors that runs will get, >= 1; default 1 */
  int32_t num_ranks;   /* tensor parallel: calls that a layer's heads are split over; the shape has
                          this rank's heads, from rank * num_q_heads on; 0 is 1; default 1 */
  int32_t rank;        /* 0..num_ranks-1; default 0 */
  int32_t products;    /* enum tokensieve_products (tokensieve_products_c.h); default auto */
  int32_t require_products; /* 1: UNSUPPORTED where they cannot be had; 0 (default): exact then */
} tokensieve_options;

TOKENSIEVE_INIT(shape) TOKENSIEVE_INIT(select) TOKENSIEVE_INIT(options)

typedef struct tokensieve_plan tokensieve_plan;

/* Checks the arguments and decides; looks at no data. select and options may be NULL (defaults).
 * On failure *plan becomes NULL. Codes: INVALID_ARGUMENT, UNSUPPORTED, OUT_OF_MEMORY. */
TOKENSIEVE_API int32_t tokensieve_make_plan(const tokensieve_shape* shape,
                                            const tokensieve_select* select,
                                            const tokensieve_options* options,
                                            tokensieve_plan** plan, tokensieve_status* status);
TOKENSIEVE_API void tokensieve_plan_free(tokensieve_plan* plan); /* or NULL */

/* Bytes of workspace that run and select_tokens need, any alignment; 0 if plan is NULL. */
TOKENSIEVE_API size_t tokensieve_workspace_bytes(const tokensieve_plan* plan);

/* tokensieve_report.work before the run: an estimate, `keep` tokens evenly spread; NULL: 0. */
TOKENSIEVE_API double tokensieve_work_of(const tokensieve_plan* plan, int64_t keep);
/* Prefix tokens that a run will keep; -1: the tau budget decides then. NULL: 0. */
TOKENSIEVE_API int64_t tokensieve_planned_keep(const tokensieve_plan* plan);

enum tokensieve_path { TOKENSIEVE_PATH_DENSE = 0, TOKENSIEVE_PATH_SPARSE = 1 };

enum tokensieve_dense_reason {
  TOKENSIEVE_DENSE_REASON_NONE = 0, /* it ran, or will try, sparse */
  TOKENSIEVE_DENSE_REASON_DISABLED = 1, TOKENSIEVE_DENSE_REASON_SHORT_PROMPT = 2,
  TOKENSIEVE_DENSE_REASON_FEW_QUERIES = 3, TOKENSIEVE_DENSE_REASON_NOTHING_TO_DROP = 4,
  TOKENSIEVE_DENSE_REASON_BREAK_EVEN = 5, TOKENSIEVE_DENSE_REASON_NOT_SPARSIFIABLE = 6,
  TOKENSIEVE_DENSE_REASON_NON_FINITE_SCORE = 7,
  TOKENSIEVE_DENSE_REASON_DECIDED_ON_DEVICE = 8, /* CUDA: one of 4, 5, 7 */
  TOKENSIEVE_DENSE_REASON_LAYER_NOT_LISTED = 9,  /* 9 to 11: tokensieve_profile_choose */
  TOKENSIEVE_DENSE_REASON_BELOW_MIN_TOKENS = 10, TOKENSIEVE_DENSE_REASON_FEW_ROWS = 11
};
TOKENSIEVE_API const char* tokensieve_dense_reason_text(int32_t reason);

typedef struct tokensieve_plan_info {
  uint32_t struct_size;
  int32_t path;          /* enum tokensieve_path; sparse: selection will be tried */
  int32_t reason;        /* enum tokensieve_dense_reason */
  int32_t backend;       /* resolved */
  int32_t isa;           /* resolved */
  int32_t num_sets;      /* index sets per sequence: num_q_heads, num_kv_heads, 1; dense: 0 */
  int64_t prefix_len;    /* tokens that may be dropped; dense: 0 */
  int64_t keep_capacity; /* tokens that a set may hold: the least capacity of a keep set */
  uint64_t workspace_bytes;
  int32_t block_pattern; /* enum tokensieve_block_pattern; none: no block mask takes part */
  int32_t num_masks;     /* per sequence: num_q_heads, num_kv_heads or 1; 0 without */
  int64_t row_tiles;     /* what a tokensieve_block_mask must hold */
  int64_t mask_words;
  int32_t products;        /* enum tokensieve_products, resolved */
  int32_t products_reason; /* enum tokensieve_products_reason: why exact, where others were asked */
} tokensieve_plan_info;

TOKENSIEVE_INIT(plan_info)
TOKENSIEVE_API int32_t tokensieve_plan_get_info(const tokensieve_plan* plan,
                                                tokensieve_plan_info* info,
                                                tokensieve_status* status);

/* ---- Run -------------------------------------------------------------------------------- */

struct tokensieve_block_mask; /* tokensieve_blocks_c.h */

/* Kept tokens, in the caller's memory. */
typedef struct tokensieve_keep_set {
  uint32_t struct_size;
  int32_t* indices; /* i32 [batch, num_sets, capacity]: ascending positions, count[b] per set */
  int64_t capacity; /* >= keep_capacity of the plan's info; given sets: >= count */
  int64_t* count;   /* i64 [batch] */
} tokensieve_keep_set;

typedef struct tokensieve_inputs {
  uint32_t struct_size;
  const tokensieve_tensor* q; /* [batch, seqlen_q, num_q_heads, head_dim] */
  const tokensieve_tensor* k; /* [batch, seqlen_kv, num_kv_heads, head_dim] */
  const tokensieve_tensor* v; /* as k */
  const float* sink_logits;   /* f32 [num_q_heads]: extra softmax mass per head, or NULL */
  const int32_t* kv_indices;  /* i32 [batch, seqlen_kv]: token j is row kv_indices[j] of k and v,
                                 which may be longer; NULL: row j */
  const uint16_t* bias;       /* f16 [seqlen_q, k rows] added to logits, or NULL; needs causal 0 */
  int64_t bias_row_stride;    /* elements between bias rows */
  const float* bias_slopes;   /* f32 [num_q_heads]: factor of the bias per head, or NULL */
  const int32_t* cu_seqlens_q;  /* packed plans: i32 [batch + 1], first row of each sequence in q */
  const int32_t* cu_seqlens_kv; /* likewise in k and v */
  const tokensieve_keep_set* keep; /* given sets of <= keep_capacity, whatever min_keep: each ends
                                      with all tokens after prefix_len; count = length: dense.
                                      NULL: run chooses */
  const struct tokensieve_block_mask* block_mask; /* with `keep` also where tokens are selected */
  const float* block_scores; /* f32 [batch, num_masks, row_tiles, tiles of seqlen_kv], likewise */
  const float* block_thresholds; /* f32 [num_masks]: each one's gamma, alpha, threshold; or NULL */
  const int32_t* block_sizes; /* i32 [num_q_heads, 2]: verticals (<= plan's), slashes; or NULL */
} tokensieve_inputs;

typedef struct tokensieve_outputs {
  uint32_t struct_size;
  const tokensieve_tensor* out; /* [batch, seqlen_q, num_q_heads, head_dim]; all rows written */
  float* lse;                   /* f32 [batch, num_q_heads, seqlen_q], natural log, or NULL;
                                   packed: [num_q_heads, rows of q] */
} tokensieve_outputs;

enum tokensieve_stage {
  TOKENSIEVE_STAGE_SCORE = 0, TOKENSIEVE_STAGE_BUDGET = 1, TOKENSIEVE_STAGE_SELECT = 2,
  TOKENSIEVE_STAGE_COMPACT = 3, TOKENSIEVE_STAGE_ATTEND = 4, TOKENSIEVE_STAGE_SCATTER = 5,
  TOKENSIEVE_STAGE_ESTIMATE = 6, /* of a block mask */ TOKENSIEVE_NUM_STAGES = 7
};
TOKENSIEVE_API const char* tokensieve_stage_name(int32_t stage);

/* What a call did. CUDA: what is known without waiting (keep_count -1, ratios NaN and times 0 where
 * the device decides); tokensieve_read_report waits for the rest. */
typedef struct tokensieve_report {
  uint32_t struct_size;
  int32_t path;           /* sparse if any sequence ran sparse */
  int32_t reason;         /* of the first sequence that ran dense */
  int32_t isa;            /* the instruction set that really ran */
  int64_t keep_count;     /* kept tokens of all sequences together */
  double keep_ratio;      /* keep_count / (batch * seqlen_kv) */
  double work; /* computed (query, key) pairs, mean over heads / those of dense attention */
  int64_t stage_ns[TOKENSIEVE_NUM_STAGES]; /* wall time; fused stages count in attend */
  double block_density; /* visited / visible tiles of the pass that a block mask steers; else 1 */
  int32_t products;        /* as in the plan's info */
  int32_t products_reason;
} tokensieve_report;

typedef struct tokensieve_run_options {
  uint32_t struct_size;
  const tokensieve_executor* executor;  /* NULL: serial */
  int32_t (*should_cancel)(void* context); /* polled from any thread; NULL: never */
  void* cancel_context;
  tokensieve_report* report; /* NULL: none */
  void* stream;              /* CUDA: the cudaStream_t to enqueue on; NULL: the default stream */
  /* num_ranks > 1: fills the other ranks' parts of `data`, num_ranks parts of `bytes` in rank order
   * (an all-gather in place); 0: success. Called once per sequence on the caller's thread, by all
   * ranks in the same order. CUDA: `data` lies in the workspace; enqueue on `stream`. */
  int32_t (*all_gather)(void* context, void* data, size_t bytes, void* stream);
  void* gather_context;
} tokensieve_run_options;

TOKENSIEVE_INIT(keep_set) TOKENSIEVE_INIT(inputs) TOKENSIEVE_INIT(outputs)
TOKENSIEVE_INIT(report) TOKENSIEVE_INIT(run_options)

/* Attention. Bit-identical for equal inputs, whatever the executor. options may be NULL.
 * Codes: INVALID_ARGUMENT, WORKSPACE_TOO_SMALL, CANCELLED. */
TOKENSIEVE_API int32_t tokensieve_run(const tokensieve_plan* plan, const tokensieve_inputs* inputs,
                                      const tokensieve_outputs* outputs, void* workspace,
                                      size_t workspace_bytes,
                                      const tokensieve_run_options* options,
                                      tokensieve_status* status);

/* CUDA: waits for `stream` and says what the last run or select_tokens of this plan on this
 * workspace chose. Other backends: UNSUPPORTED (their reports are complete). */
TOKENSIEVE_API int32_t tokensieve_read_report(const tokensieve_plan* plan, void* workspace,
                                              size_t workspace_bytes, void* stream,
                                              tokensieve_report* report, tokensieve_status* status);

/* ---- Bring your own attend: select_tokens -> compact -> attend -> scatter ------------------ */

/* Stages score, budget and select; inputs->v is not read. A sequence that should run dense gets
 * count = seqlen_kv and no indices. Needs a plan whose path is sparse. CUDA: sets are unchecked. */
TOKENSIEVE_API int32_t tokensieve_select_tokens(const tokensieve_plan* plan,
                                                const tokensieve_inputs* inputs,
                                                const tokensieve_keep_set* keep, void* workspace,
                                                size_t workspace_bytes,
                                                const tokensieve_run_options* options,
                                                tokensieve_status* status);

/* Gathers rows of x [batch, seqlen_kv, heads, head_dim] into compacted [batch, capacity,
 * heads_out, head_dim]; heads_out is a multiple of heads and of the plan's num_sets. */
TOKENSIEVE_API int32_t tokensieve_compact(const tokensieve_plan* plan, const tokensieve_tensor* x,
                                          const tokensieve_keep_set* keep,
                                          const tokensieve_tensor* compacted,
                                          const tokensieve_run_options* options,
                                          tokensieve_status* status);

/* Writes compacted rows back to their positions in out [batch, seqlen_kv, heads, head_dim]; every
 * other row becomes 0. */
TOKENSIEVE_API int32_t tokensieve_scatter(const tokensieve_plan* plan,
                                          const tokensieve_tensor* compacted,
                                          const tokensieve_keep_set* keep,
                                          const tokensieve_tensor* out,
                                          const tokensieve_run_options* options,
                                          tokensieve_status* status);

#ifdef __cplusplus
}
#endif

#endif /* TOKENSIEVE_C_H_ */
