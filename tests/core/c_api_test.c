/* The C ABI from a C program: defaults, growth of structs, every call, errors.
 *
 * Runs on the oracle and, where it is built, on the CPU backend; both must agree. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include <tokensieve/tokensieve_blocks_c.h>
#include <tokensieve/tokensieve_products_c.h>

#include "c_expect.h"

enum { kTokens = 160, kHeads = 4, kKvHeads = 2, kDim = 32, kWindow = 16 };

typedef struct problem {
  tokensieve_shape shape;
  tokensieve_select select;
  float q[kTokens * kHeads * kDim], k[kTokens * kKvHeads * kDim], v[kTokens * kKvHeads * kDim];
  float out[kTokens * kHeads * kDim], lse[kTokens * kHeads];
  tokensieve_tensor q_view, k_view, v_view, out_view;
  tokensieve_inputs inputs;
  tokensieve_outputs outputs;
} problem;

static void fill(float* values, size_t count, unsigned seed) {
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
  }
}

static problem* make_problem(void) {
  problem* p = calloc(1, sizeof(problem));
  if (p == NULL) exit(1);
  tokensieve_shape_init(&p->shape);
  p->shape.seqlen_q = p->shape.seqlen_kv = kTokens;
  p->shape.num_q_heads = kHeads;
  p->shape.num_kv_heads = kKvHeads;
  p->shape.head_dim = kDim;
  tokensieve_select_init(&p->select);
  p->select.budget = TOKENSIEVE_BUDGET_KEEP_COUNT;
  p->select.keep_count = 40;
  p->select.min_keep = 8;
  p->select.obs_window = kWindow;
  p->select.dense_policy = TOKENSIEVE_DENSE_NEVER;
  fill(p->q, kTokens * kHeads * kDim, 1);
  fill(p->k, kTokens * kKvHeads * kDim, 2);
  fill(p->v, kTokens * kKvHeads * kDim, 3);
  tokensieve_tensor_init_bshd(&p->q_view, p->q, TOKENSIEVE_F32, 1, kTokens, kHeads, kDim);
  tokensieve_tensor_init_bshd(&p->k_view, p->k, TOKENSIEVE_F32, 1, kTokens, kKvHeads, kDim);
  tokensieve_tensor_init_bshd(&p->v_view, p->v, TOKENSIEVE_F32, 1, kTokens, kKvHeads, kDim);
  tokensieve_tensor_init_bshd(&p->out_view, p->out, TOKENSIEVE_F32, 1, kTokens, kHeads, kDim);
  tokensieve_inputs_init(&p->inputs);
  p->inputs.q = &p->q_view;
  p->inputs.k = &p->k_view;
  p->inputs.v = &p->v_view;
  tokensieve_outputs_init(&p->outputs);
  p->outputs.out = &p->out_view;
  p->outputs.lse = p->lse;
  return p;
}

static tokensieve_plan* plan_of(const problem* p, int32_t backend, int32_t num_threads) {
  tokensieve_options options;
  tokensieve_options_init(&options);
  options.backend = backend;
  options.num_threads = num_threads;
  tokensieve_plan* plan = NULL;
  EXPECT_OK(tokensieve_make_plan(&p->shape, &p->select, &options, &plan, &status));
  return plan;
}

static void test_defaults(void) {
  tokensieve_shape shape;
  tokensieve_shape_init(&shape);
  EXPECT(shape.struct_size == sizeof(shape) && shape.batch == 1 && shape.causal == 1);
  tokensieve_select select;
  tokensieve_select_init(&select);
  EXPECT(select.struct_size == sizeof(select) && select.enabled == 1);
  EXPECT(select.tau == 0.005 && select.obs_window == 128 && select.pool_width == 7);
  EXPECT(select.min_keep == 1024 && select.local_window == 512 && select.sinks == 4);
  tokensieve_options options;
  tokensieve_options_init(&options);
  EXPECT(options.num_threads == 1 && options.backend == TOKENSIEVE_BACKEND_AUTO);
  EXPECT(strcmp(tokensieve_code_name(TOKENSIEVE_OUT_OF_MEMORY), "out of memory") == 0);
  EXPECT(strcmp(tokensieve_backend_name(TOKENSIEVE_BACKEND_REF), "ref") == 0);
  EXPECT(strcmp(tokensieve_stage_name(TOKENSIEVE_STAGE_SCATTER), "scatter") == 0);
  EXPECT(strcmp(tokensieve_stage_name(99), "unknown") == 0);
  EXPECT(strlen(tokensieve_dense_reason_text(TOKENSIEVE_DENSE_REASON_BREAK_EVEN)) > 0);
  EXPECT(tokensieve_backend_available(TOKENSIEVE_BACKEND_REF) == 1);
  EXPECT(tokensieve_backend_compiled(TOKENSIEVE_BACKEND_REF) == 1);
  EXPECT(tokensieve_backend_available(TOKENSIEVE_BACKEND_CUDA) <=
         tokensieve_backend_compiled(TOKENSIEVE_BACKEND_CUDA));
  EXPECT(tokensieve_backend_available(77) == 0);
  EXPECT(strlen(tokensieve_version()) >= 5);
  EXPECT(tokensieve_workspace_bytes(NULL) == 0);
  EXPECT(tokensieve_work_of(NULL, 1) == 0.0 && tokensieve_planned_keep(NULL) == 0);
}

static void test_isas(void) {
  int32_t isas[8] = {0};
  const int32_t count = tokensieve_supported_isas(isas, 8);
  EXPECT(count >= 1 && count <= 8);
  EXPECT(tokensieve_supported_isas(NULL, 0) == count);
  for (int32_t i = 0; i < count; ++i) {
    int32_t isa = -1;
    EXPECT_OK(tokensieve_isa_from_name(tokensieve_isa_name(isas[i]), &isa, &status));
    EXPECT(isa == isas[i]);
  }
  int32_t isa = -1;
  EXPECT_ERROR(tokensieve_isa_from_name("mmx", &isa, &status), TOKENSIEVE_INVALID_ARGUMENT, "mmx");
  EXPECT_ERROR(tokensieve_isa_from_name(NULL, &isa, &status), TOKENSIEVE_INVALID_ARGUMENT, "name");
}

/* What the plan and a run of it say; the plan is freed. */
static void expect_products(problem* p, tokensieve_plan* plan, int32_t products, int32_t reason) {
  tokensieve_plan_info info;
  tokensieve_plan_info_init(&info);
  EXPECT_OK(tokensieve_plan_get_info(plan, &info, &status));
  EXPECT(info.products == products && info.products_reason == reason);
  const size_t bytes = tokensieve_workspace_bytes(plan);
  void* workspace = malloc(bytes + 1);
  tokensieve_report report;
  tokensieve_report_init(&report);
  tokensieve_run_options options;
  tokensieve_run_options_init(&options);
  options.report = &report;
  EXPECT_OK(tokensieve_run(plan, &p->inputs, &p->outputs, workspace, bytes, &options, &status));
  EXPECT(report.products == products && report.products_reason == reason);
  free(workspace);
  tokensieve_plan_free(plan);
}

static void test_products(void) {
  EXPECT(strcmp(tokensieve_products_name(TOKENSIEVE_PRODUCTS_SPLIT), "split") == 0);
  EXPECT(strcmp(tokensieve_products_name(77), "unknown") == 0);
  EXPECT(strstr(tokensieve_products_reason_text(TOKENSIEVE_PRODUCTS_REASON_BACKEND), "cpu"));
  EXPECT(tokensieve_isa_supported(TOKENSIEVE_ISA_BASELINE) == 1);
  EXPECT(tokensieve_isa_supported(77) == 0);

  problem* p = make_problem(); /* k and v are f32 */
  tokensieve_options options;
  tokensieve_options_init(&options);
  EXPECT(options.products == TOKENSIEVE_PRODUCTS_AUTO && options.require_products == 0);
  tokensieve_plan* plan = NULL;
  options.products = TOKENSIEVE_PRODUCTS_SPLIT;
  EXPECT_OK(tokensieve_make_plan(&p->shape, &p->select, &options, &plan, &status));
  expect_products(p, plan, TOKENSIEVE_PRODUCTS_EXACT, TOKENSIEVE_PRODUCTS_REASON_F32_KEYS);
  options.require_products = 1;
  EXPECT_ERROR(tokensieve_make_plan(&p->shape, &p->select, &options, &plan, &status),
               TOKENSIEVE_UNSUPPORTED, "products = split");
  options.products = TOKENSIEVE_PRODUCTS_EXACT;
  EXPECT_OK(tokensieve_make_plan(&p->shape, &p->select, &options, &plan, &status));
  expect_products(p, plan, TOKENSIEVE_PRODUCTS_EXACT, TOKENSIEVE_PRODUCTS_REASON_NONE);
  options.products = TOKENSIEVE_PRODUCTS_BF16;
  options.isa = TOKENSIEVE_ISA_AMX_EMULATED;
  EXPECT_OK(tokensieve_make_plan(&p->shape, &p->select, &options, &plan, &status));
  expect_products(p, plan, TOKENSIEVE_PRODUCTS_BF16, TOKENSIEVE_PRODUCTS_REASON_NONE);
  options.products = 77;
  EXPECT_ERROR(tokensieve_make_plan(&p->shape, &p->select, &options, &plan, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "products is 77; allowed: auto, exact, split, bf16");
  /* An older program's options end before the products, whatever lies behind them. */
  options.struct_size = offsetof(tokensieve_options, products);
  EXPECT_OK(tokensieve_make_plan(&p->shape, &p->select, &options, &plan, &status));
  expect_products(p, plan, TOKENSIEVE_PRODUCTS_EXACT, TOKENSIEVE_PRODUCTS_REASON_NONE);
  free(p);
}

static void test_growing_structs(void) {
  problem* p = make_problem();
  tokensieve_plan* plan = NULL;
  /* An older program: its struct is all that init writes, and what it does not know is 0. */
  tokensieve_shape older;
  memset(&older, 0x5a, sizeof(older));
  tokensieve_shape_init_sized(&older, offsetof(tokensieve_shape, packed));
  EXPECT(older.struct_size == offsetof(tokensieve_shape, packed) && older.batch == 1);
  EXPECT(older.packed == 0x5a5a5a5a);
  p->shape.struct_size = offsetof(tokensieve_shape, packed);
  p->shape.packed = p->shape.reserved = 77;
  EXPECT_OK(tokensieve_make_plan(&p->shape, &p->select, NULL, &plan, &status));
  tokensieve_plan_free(plan);
  p->shape.packed = p->shape.reserved = 0;
  p->shape.struct_size = sizeof(p->shape);
  /* A newer program: the tail must be 0. */
  struct {
    tokensieve_shape shape;
    int64_t future;
  } newer;
  memset(&newer, 0x5a, sizeof(newer));
  EXPECT(tokensieve_shape_init_sized(&newer.shape, sizeof(newer)) == sizeof(tokensieve_shape));
  EXPECT(newer.shape.struct_size == sizeof(newer) && newer.shape.batch == 1 && newer.future == 0);
  newer.shape = p->shape;
  newer.shape.struct_size = sizeof(newer);
  tokensieve_options options;
  tokensieve_options_init(&options);
  options.backend = TOKENSIEVE_BACKEND_REF;
  EXPECT_OK(tokensieve_make_plan(&newer.shape, &p->select, &options, &plan, &status));
  tokensieve_plan_free(plan);
  newer.future = 1;
  EXPECT_ERROR(tokensieve_make_plan(&newer.shape, &p->select, &options, &plan, &status),
               TOKENSIEVE_UNSUPPORTED, "shape sets a field");
  EXPECT(plan == NULL);
  /* Never initialised. */
  p->shape.struct_size = 0;
  EXPECT_ERROR(tokensieve_make_plan(&p->shape, NULL, NULL, &plan, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "shape.struct_size is 0");
  p->shape.struct_size = 123456789;
  EXPECT_ERROR(tokensieve_make_plan(&p->shape, NULL, NULL, &plan, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "123456789");
  p->shape.struct_size = sizeof(p->shape);
  p->select.reserved = 5;
  EXPECT_ERROR(tokensieve_make_plan(&p->shape, &p->select, NULL, &plan, &status),
               TOKENSIEVE_UNSUPPORTED, "select.reserved is 5");
  /* An older program's shorter status gets the part that it has room for. */
  tokensieve_status small;
  memset(&small, 'x', sizeof(small));
  small.struct_size = 8;
  EXPECT(tokensieve_make_plan(NULL, NULL, NULL, &plan, &small) == TOKENSIEVE_INVALID_ARGUMENT);
  EXPECT(small.code == TOKENSIEVE_INVALID_ARGUMENT && small.message[0] == 'x');
  free(p);
}

static void test_plan(void) {
  problem* p = make_problem();
  tokensieve_plan* plan = plan_of(p, TOKENSIEVE_BACKEND_REF, 1);
  tokensieve_plan_info info;
  tokensieve_plan_info_init(&info);
  EXPECT_OK(tokensieve_plan_get_info(plan, &info, &status));
  EXPECT(info.path == TOKENSIEVE_PATH_SPARSE && info.backend == TOKENSIEVE_BACKEND_REF);
  EXPECT(info.num_sets == kHeads && info.prefix_len == kTokens - kWindow);
  EXPECT(info.keep_capacity == 40 + kWindow);
  EXPECT(info.workspace_bytes == tokensieve_workspace_bytes(plan));
  /* Zero fill: the triangle of the kept rows, of the whole prompt's. */
  EXPECT(tokensieve_work_of(plan, 20) == 36.0 * 37 / (kTokens * (kTokens + 1.0)));
  EXPECT(tokensieve_work_of(plan, info.prefix_len) == 1.0);
  tokensieve_plan_free(plan);

  p->select.budget = TOKENSIEVE_BUDGET_TAU;
  plan = plan_of(p, TOKENSIEVE_BACKEND_REF, 1);
  EXPECT(tokensieve_planned_keep(plan) == -1);
  tokensieve_plan_free(plan);

  p->select.enabled = 0;
  plan = plan_of(p, TOKENSIEVE_BACKEND_REF, 1);
  EXPECT_OK(tokensieve_plan_get_info(plan, &info, &status));
  EXPECT(info.path == TOKENSIEVE_PATH_DENSE && info.keep_capacity == 0);
  EXPECT(info.reason == TOKENSIEVE_DENSE_REASON_DISABLED);
  EXPECT(tokensieve_planned_keep(plan) == 0 && tokensieve_work_of(plan, 20) == 1.0);
  EXPECT_ERROR(tokensieve_plan_get_info(plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT, "info");
  tokensieve_plan_free(plan);
  tokensieve_plan_free(NULL);

  p->shape.head_dim = 20;
  EXPECT_ERROR(tokensieve_make_plan(&p->shape, NULL, NULL, &plan, &status),
               TOKENSIEVE_UNSUPPORTED, "head_dim is 20; allowed: a multiple of 16");
  EXPECT(plan == NULL);
  EXPECT_ERROR(tokensieve_make_plan(&p->shape, NULL, NULL, NULL, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "plan is NULL");
  EXPECT(tokensieve_make_plan(NULL, NULL, NULL, &plan, NULL) == TOKENSIEVE_INVALID_ARGUMENT);
  free(p);
}

static int32_t run_problem(problem* p, const tokensieve_plan* plan,
                           const tokensieve_run_options* options, tokensieve_status* status) {
  const size_t bytes = tokensieve_workspace_bytes(plan);
  void* workspace = malloc(bytes + 1);
  const int32_t code = tokensieve_run(plan, &p->inputs, &p->outputs, workspace, bytes, options,
                                      status);
  free(workspace);
  return code;
}

static int32_t cancel(void* context) {
  ++*(int*)context;
  return 1;
}

static void test_run(int32_t backend) {
  problem* p = make_problem();
  tokensieve_plan* plan = plan_of(p, backend, 2);
  tokensieve_report report;
  tokensieve_report_init(&report);
  tokensieve_run_options options;
  tokensieve_run_options_init(&options);
  options.report = &report;
  EXPECT_OK(run_problem(p, plan, &options, &status));
  EXPECT(report.path == TOKENSIEVE_PATH_SPARSE && report.keep_count == 40 + kWindow);
  EXPECT(report.struct_size == sizeof(report) && report.work < 1.0);
  EXPECT(tokensieve_planned_keep(plan) == 40 && tokensieve_work_of(plan, 40) == report.work);
  /* The newest row is always kept, and a token's own weight makes it non-zero. */
  EXPECT(p->out[(kTokens - 1) * kHeads * kDim] != 0.0f && isfinite(p->lse[kTokens - 1]));

  float* serial = malloc(sizeof(p->out));
  memcpy(serial, p->out, sizeof(p->out));
  tokensieve_thread_pool* pool = NULL;
  EXPECT_OK(tokensieve_thread_pool_create(2, &pool, &status));
  tokensieve_executor executor;
  tokensieve_thread_pool_executor(pool, &executor);
  options.executor = &executor;
  EXPECT_OK(run_problem(p, plan, &options, &status));
  EXPECT(memcmp(serial, p->out, sizeof(p->out)) == 0);

  int polled = 0;
  options.should_cancel = cancel;
  options.cancel_context = &polled;
  EXPECT_ERROR(run_problem(p, plan, &options, &status), TOKENSIEVE_CANCELLED, "cancel");
  EXPECT(polled >= 1);
  tokensieve_thread_pool_free(pool);
  tokensieve_plan_free(plan);
  free(serial);
  free(p);
}

static void test_run_errors(int32_t backend) {
  problem* p = make_problem();
  tokensieve_plan* plan = plan_of(p, backend, 1);
  EXPECT_ERROR(run_problem(p, NULL, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT, "plan is NULL");
  p->inputs.q = NULL;
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT, "q is NULL");
  p->inputs.q = &p->q_view;
  p->k_view.dtype = TOKENSIEVE_F16;
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT, "k is f16");
  p->k_view.dtype = TOKENSIEVE_F32;
  p->out_view.data = p->q;
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT, "out overlaps q");
  p->out_view.data = p->out;
  tokensieve_executor executor;
  tokensieve_executor_init(&executor);
  tokensieve_run_options options;
  tokensieve_run_options_init(&options);
  options.executor = &executor;
  EXPECT_ERROR(run_problem(p, plan, &options, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "executor.num_threads is NULL");
  tokensieve_thread_pool* pool = NULL;
  EXPECT_ERROR(tokensieve_thread_pool_create(-1, &pool, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "num_threads is -1");
  EXPECT(pool == NULL);
  EXPECT_OK(tokensieve_thread_pool_create(2, &pool, &status));
  tokensieve_thread_pool_executor(pool, &executor);
  EXPECT_ERROR(run_problem(p, plan, &options, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "the executor has 2 threads");
  tokensieve_thread_pool_free(pool);
  tokensieve_thread_pool_free(NULL);
  tokensieve_plan_free(plan);
  free(p);
}

/* select_tokens -> compact -> scatter puts exactly the kept rows of q back. */
static void test_stages(int32_t backend) {
  problem* p = make_problem();
  tokensieve_plan* plan = plan_of(p, backend, 1);
  enum { kKept = 40 + kWindow };
  static int32_t indices[kHeads * kKept];
  static float rows[kKept * kHeads * kDim];
  int64_t count = 0;
  tokensieve_keep_set keep;
  tokensieve_keep_set_init(&keep);
  keep.indices = indices;
  keep.capacity = kKept;
  keep.count = &count;
  const size_t bytes = tokensieve_workspace_bytes(plan);
  void* workspace = malloc(bytes + 1);
  EXPECT_OK(tokensieve_select_tokens(plan, &p->inputs, &keep, workspace, bytes, NULL, &status));
  EXPECT(count == kKept);
  tokensieve_tensor rows_view;
  tokensieve_tensor_init_bshd(&rows_view, rows, TOKENSIEVE_F32, 1, kKept, kHeads, kDim);
  EXPECT_OK(tokensieve_compact(plan, &p->q_view, &keep, &rows_view, NULL, &status));
  memset(p->out, 0xff, sizeof(p->out));
  EXPECT_OK(tokensieve_scatter(plan, &rows_view, &keep, &p->out_view, NULL, &status));
  for (int h = 0; h < kHeads; ++h) {
    for (int i = 0, r = 0; i < kTokens; ++i) {
      const int kept = r < kKept && indices[h * kKept + r] == i;
      for (int d = 0; d < kDim; ++d) {
        const int at = (i * kHeads + h) * kDim + d;
        if (p->out[at] != (kept ? p->q[at] : 0.0f)) {
          EXPECT(!"scatter(compact(q)) has q at the kept rows and 0 elsewhere");
          h = kHeads, i = kTokens, d = kDim;
        }
      }
      r += kept;
    }
  }
  indices[3] = kTokens;
  EXPECT_ERROR(tokensieve_compact(plan, &p->q_view, &keep, &rows_view, NULL, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "keep.indices[0, 0, 3] is 160");
  keep.capacity = 10;
  EXPECT_ERROR(tokensieve_select_tokens(plan, &p->inputs, &keep, workspace, bytes, NULL, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "keep.capacity is 10");
  free(workspace);
  tokensieve_plan_free(plan);
  free(p);
}

/* The chosen sets, given back, are the same run; fewer tokens than min_keep may be given too. */
static void test_given_sets(int32_t backend) {
  problem* p = make_problem();
  tokensieve_plan* plan = plan_of(p, backend, 1);
  enum { kKept = 40 + kWindow };
  static int32_t indices[kHeads * kKept];
  int64_t count = 0;
  tokensieve_keep_set keep;
  tokensieve_keep_set_init(&keep);
  keep.indices = indices;
  keep.capacity = kKept;
  keep.count = &count;
  const size_t bytes = tokensieve_workspace_bytes(plan);
  void* workspace = malloc(bytes + 1);
  EXPECT_OK(tokensieve_select_tokens(plan, &p->inputs, &keep, workspace, bytes, NULL, &status));
  free(workspace);
  EXPECT_OK(run_problem(p, plan, NULL, &status));
  float* chosen = malloc(sizeof(p->out));
  memcpy(chosen, p->out, sizeof(p->out));
  p->inputs.keep = &keep;
  memset(p->out, 0xff, sizeof(p->out));
  EXPECT_OK(run_problem(p, plan, NULL, &status));
  EXPECT(memcmp(chosen, p->out, sizeof(p->out)) == 0);

  for (int set = 0; set < kHeads; ++set) {
    indices[set * kKept] = 5;
    for (int i = 0; i < kWindow; ++i) indices[set * kKept + 1 + i] = kTokens - kWindow + i;
  }
  count = 1 + kWindow;
  tokensieve_report report;
  tokensieve_report_init(&report);
  tokensieve_run_options options;
  tokensieve_run_options_init(&options);
  options.report = &report;
  EXPECT_OK(run_problem(p, plan, &options, &status));
  EXPECT(report.keep_count == 1 + kWindow && p->out[4 * kHeads * kDim] == 0.0f);
  EXPECT(p->out[5 * kHeads * kDim] == p->v[5 * kKvHeads * kDim]); /* it sees itself only */

  count = kWindow;
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "does not end with the last 16 tokens");
  keep.indices = NULL;
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "keep.indices is NULL");
  keep.struct_size = 0;
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "keep.struct_size is 0");
  /* An older program's inputs end before `keep`. */
  p->inputs.struct_size = offsetof(tokensieve_inputs, keep);
  EXPECT_OK(run_problem(p, plan, NULL, &status));
  EXPECT(memcmp(chosen, p->out, sizeof(p->out)) == 0);
  free(chosen);
  tokensieve_plan_free(plan);
  free(p);
}

/* Two ranks with the same heads: an all-gather that copies this rank's scores to the other's
 * part. */
static int32_t copy_to_other(void* context, void* data, size_t bytes, void* stream) {
  (void)stream;
  memcpy((char*)data + bytes, data, bytes);
  return ++*(int*)context < 0;
}
static int32_t refuse_gather(void* context, void* data, size_t bytes, void* stream) {
  (void)context, (void)data, (void)bytes, (void)stream;
  return 1;
}

static void test_ranks(int32_t backend) {
  problem* p = make_problem();
  p->select.share = TOKENSIEVE_SHARE_LAYER;
  tokensieve_plan* alone = plan_of(p, backend, 1);
  EXPECT_OK(run_problem(p, alone, NULL, &status));
  float* expected = malloc(sizeof(p->out));
  memcpy(expected, p->out, sizeof(p->out));
  tokensieve_plan_free(alone);

  tokensieve_options plan_options;
  tokensieve_options_init(&plan_options);
  EXPECT(plan_options.num_ranks == 1 && plan_options.rank == 0);
  plan_options.backend = backend;
  plan_options.num_ranks = 2;
  tokensieve_plan* plan = NULL;
  EXPECT_OK(tokensieve_make_plan(&p->shape, &p->select, &plan_options, &plan, &status));
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "all_gather is null");
  int calls = 0;
  tokensieve_run_options options;
  tokensieve_run_options_init(&options);
  options.all_gather = copy_to_other;
  options.gather_context = &calls;
  memset(p->out, 0xff, sizeof(p->out));
  EXPECT_OK(run_problem(p, plan, &options, &status));
  EXPECT(calls == 1 && memcmp(expected, p->out, sizeof(p->out)) == 0);
  options.all_gather = refuse_gather;
  EXPECT_ERROR(run_problem(p, plan, &options, &status), TOKENSIEVE_INTERNAL, "all_gather failed");
  tokensieve_plan_free(plan);
  /* An older program's options end before the ranks. */
  plan_options.struct_size = offsetof(tokensieve_options, num_ranks);
  EXPECT_OK(tokensieve_make_plan(&p->shape, &p->select, &plan_options, &plan, &status));
  EXPECT_OK(run_problem(p, plan, NULL, &status));
  tokensieve_plan_free(plan);
  free(expected);
  free(p);
}

/* One plan, two threads at once. */
typedef struct thread_job {
  problem* p;
  const tokensieve_plan* plan;
  int32_t code;
} thread_job;

static void* run_job(void* job_pointer) {
  thread_job* job = job_pointer;
  job->code = run_problem(job->p, job->plan, NULL, NULL);
  return NULL;
}

static void test_shared_plan(int32_t backend) {
  problem* problems[2] = {make_problem(), make_problem()};
  tokensieve_plan* plan = plan_of(problems[0], backend, 1);
  thread_job jobs[2];
  pthread_t threads[2];
  for (int i = 0; i < 2; ++i) {
    jobs[i].p = problems[i];
    jobs[i].plan = plan;
    jobs[i].code = -1;
    EXPECT(pthread_create(&threads[i], NULL, run_job, &jobs[i]) == 0);
  }
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
  EXPECT(jobs[0].code == TOKENSIEVE_OK && jobs[1].code == TOKENSIEVE_OK);
  EXPECT(memcmp(problems[0]->out, problems[1]->out, sizeof(problems[0]->out)) == 0);
  tokensieve_plan_free(plan);
  free(problems[0]);
  free(problems[1]);
}

static tokensieve_plan* blocks_plan_of(const problem* p, const tokensieve_blocks* blocks) {
  tokensieve_options options;
  tokensieve_options_init(&options);
  options.backend = TOKENSIEVE_BACKEND_REF;
  tokensieve_plan* plan = NULL;
  EXPECT_OK(tokensieve_make_plan_with_blocks(&p->shape, &p->select, blocks, &options, &plan,
                                             &status));
  return plan;
}

/* 160 tokens are 2 x 2 tiles. */
static void test_given_blocks(void) {
  problem* p = make_problem();
  p->select.enabled = 0;
  tokensieve_blocks blocks;
  tokensieve_blocks_init(&blocks);
  EXPECT(blocks.struct_size == sizeof(blocks) && blocks.pattern == TOKENSIEVE_BLOCKS_NONE);
  EXPECT(blocks.gamma == 0.9 && blocks.flex_tau == 0.1 && blocks.threshold == 0.9);
  EXPECT(blocks.alpha == 0.1 && blocks.stride == 16 && blocks.min_budget == 1024);
  EXPECT(blocks.sink_tiles == 2 && blocks.window_tiles == 4 && blocks.last_tiles == 2);
  EXPECT(blocks.verticals == 1000 && blocks.slashes == 6096 && blocks.slash_ratio == 0);
  blocks.pattern = TOKENSIEVE_BLOCKS_GIVEN;
  tokensieve_plan* plan = blocks_plan_of(p, &blocks);
  tokensieve_plan_info info;
  tokensieve_plan_info_init(&info);
  EXPECT_OK(tokensieve_plan_get_info(plan, &info, &status));
  EXPECT(info.block_pattern == TOKENSIEVE_BLOCKS_GIVEN && info.num_masks == kHeads);
  EXPECT(info.row_tiles == 2 && info.mask_words == 1);

  uint32_t bits[kHeads][2];
  for (int h = 0; h < kHeads; ++h) bits[h][0] = 1, bits[h][1] = h == 1 ? 2 : 3;
  tokensieve_block_mask mask;
  tokensieve_block_mask_init(&mask);
  mask.bits = bits[0];
  mask.num_masks = kHeads;
  mask.row_tiles = 2;
  mask.words = 1;
  p->inputs.block_mask = &mask;
  tokensieve_report report;
  tokensieve_report_init(&report);
  tokensieve_run_options options;
  tokensieve_run_options_init(&options);
  options.report = &report;
  EXPECT_OK(run_problem(p, plan, &options, &status));
  EXPECT(report.block_density == 11.0 / 12 && report.work == report.block_density);
  EXPECT(report.stage_ns[TOKENSIEVE_STAGE_ESTIMATE] > 0);
  /* Head 1's token 128 sees itself only. */
  EXPECT(p->out[(128 * kHeads + 1) * kDim] == p->v[128 * kKvHeads * kDim]);
  EXPECT(p->out[128 * kHeads * kDim] != p->v[128 * kKvHeads * kDim]);

  mask.row_tiles = 3;
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "block_mask has 4 masks of 3 row tiles x 1 words; the plan needs 4 x 2 x 1");
  mask.bits = NULL;
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "block_mask.bits is NULL");
  mask.struct_size = 0;
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "block_mask.struct_size is 0");
  /* An older program's inputs end before the mask, which this plan needs. */
  p->inputs.struct_size = offsetof(tokensieve_inputs, block_mask);
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "block_mask.bits is null");
  tokensieve_plan_free(plan);
  free(p);
}

static void test_block_scores(void) {
  problem* p = make_problem();
  p->select.enabled = 0;
  tokensieve_blocks blocks;
  tokensieve_blocks_init(&blocks);
  blocks.pattern = TOKENSIEVE_BLOCKS_SCORES;
  blocks.share = TOKENSIEVE_SHARE_KV;
  blocks.threshold = 0.5;
  tokensieve_plan* plan = blocks_plan_of(p, &blocks);
  static const float scores[kKvHeads][2][2] = {{{1, 1}, {0.5f, 0.6f}}, {{0.4f, 0}, {0.7f, 0.2f}}};
  static const float thresholds[kKvHeads] = {0.5f, 0.1f};
  uint32_t bits[kKvHeads][2];
  memset(bits, 0xff, sizeof(bits));
  tokensieve_block_mask mask;
  tokensieve_block_mask_init(&mask);
  mask.bits = bits[0];
  mask.num_masks = kKvHeads;
  mask.row_tiles = 2;
  mask.words = 1;
  p->inputs.block_scores = scores[0][0];
  const size_t bytes = tokensieve_workspace_bytes(plan);
  void* workspace = malloc(bytes + 1);
  EXPECT_OK(tokensieve_estimate_blocks(plan, &p->inputs, &mask, workspace, bytes, NULL, &status));
  EXPECT(bits[0][0] == 3 && bits[0][1] == 2 && bits[1][0] == 0 && bits[1][1] == 1);
  p->inputs.block_thresholds = thresholds;
  EXPECT_OK(tokensieve_estimate_blocks(plan, &p->inputs, &mask, workspace, bytes, NULL, &status));
  EXPECT(bits[0][1] == 2 && bits[1][0] == 1 && bits[1][1] == 3);
  EXPECT_ERROR(tokensieve_estimate_blocks(plan, &p->inputs, NULL, workspace, bytes, NULL, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "mask is NULL");
  free(workspace);
  tokensieve_plan_free(plan);

  plan = plan_of(p, TOKENSIEVE_BACKEND_REF, 1);
  EXPECT_ERROR(run_problem(p, plan, NULL, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "block_scores was given, but the plan's block pattern is none");
  EXPECT_ERROR(tokensieve_estimate_blocks(plan, &p->inputs, &mask, NULL, 0, NULL, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "this one's pattern is none");
  tokensieve_plan_free(plan);
  tokensieve_plan* none = NULL;
  blocks.reserved = 3;
  EXPECT_ERROR(tokensieve_make_plan_with_blocks(&p->shape, NULL, &blocks, NULL, &none, &status),
               TOKENSIEVE_UNSUPPORTED, "blocks.reserved is 3");
  blocks.reserved = 0;
  blocks.pattern = 77;
  EXPECT_ERROR(tokensieve_make_plan_with_blocks(&p->shape, NULL, &blocks, NULL, &none, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "blocks.pattern is 77; allowed: none, given");
  blocks.pattern = TOKENSIEVE_BLOCKS_ANTIDIAGONAL;
  blocks.stride = 24;
  EXPECT_ERROR(tokensieve_make_plan_with_blocks(&p->shape, NULL, &blocks, NULL, &none, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "blocks.stride is 24; allowed: 8, 16 or 32");
  EXPECT(none == NULL);
  free(p);
}

static void test_backends_agree(void) {
  problem* ref = make_problem();
  problem* cpu = make_problem();
  tokensieve_plan* ref_plan = plan_of(ref, TOKENSIEVE_BACKEND_REF, 1);
  tokensieve_plan* cpu_plan = plan_of(cpu, TOKENSIEVE_BACKEND_CPU, 1);
  EXPECT_OK(run_problem(ref, ref_plan, NULL, &status));
  EXPECT_OK(run_problem(cpu, cpu_plan, NULL, &status));
  double worst = 0.0;
  for (int i = 0; i < kTokens * kHeads * kDim; ++i) {
    worst = fmax(worst, fabs((double)ref->out[i] - cpu->out[i]));
  }
  EXPECT(worst < 1e-5);
  tokensieve_plan_free(ref_plan);
  tokensieve_plan_free(cpu_plan);
  free(ref);
  free(cpu);
}

int main(void) {
  const int32_t backends[2] = {TOKENSIEVE_BACKEND_REF, TOKENSIEVE_BACKEND_CPU};
  test_defaults();
  test_isas();
  test_products();
  test_growing_structs();
  test_plan();
  for (int i = 0; i < 2; ++i) {
    test_run(backends[i]);
    test_run_errors(backends[i]);
    test_stages(backends[i]);
    test_given_sets(backends[i]);
    test_ranks(backends[i]);
    test_shared_plan(backends[i]);
  }
  test_given_blocks();
  test_block_scores();
  test_backends_agree();
  if (failures == 0) printf("all C ABI checks passed\n");
  return failures == 0 ? 0 : 1;
}
