/* Sparse attention through the C ABI, on the built-in thread pool. */
#include <stdio.h>
#include <stdlib.h>
#include <tokensieve/tokensieve_c.h>

enum { kTokens = 2048, kHeads = 4, kKvHeads = 2, kDim = 64 };

static float* random_values(size_t count) {
  float* values = malloc(count * sizeof(float));
  if (values == NULL) exit(1);
  for (size_t i = 0; i < count; ++i) values[i] = (float)rand() / (float)RAND_MAX - 0.5f;
  return values;
}

static void check(const tokensieve_status* status) {
  if (status->code == TOKENSIEVE_OK) return;
  fprintf(stderr, "%s: %s\n", tokensieve_code_name(status->code), status->message);
  exit(1);
}

int main(void) {
  tokensieve_status status;
  tokensieve_status_init(&status);

  tokensieve_shape shape;
  tokensieve_shape_init(&shape);
  shape.seqlen_q = shape.seqlen_kv = kTokens;
  shape.num_q_heads = kHeads;
  shape.num_kv_heads = kKvHeads;
  shape.head_dim = kDim;
  tokensieve_select select;
  tokensieve_select_init(&select);
  select.budget = TOKENSIEVE_BUDGET_KEEP_RATIO;
  select.keep_ratio = 0.25;
  select.min_keep = 256;
  select.dense_policy = TOKENSIEVE_DENSE_NEVER;
  tokensieve_options options;
  tokensieve_options_init(&options);
  options.num_threads = 2;

  tokensieve_plan* plan = NULL;
  tokensieve_make_plan(&shape, &select, &options, &plan, &status);
  check(&status);
  tokensieve_thread_pool* pool = NULL;
  tokensieve_thread_pool_create(options.num_threads, &pool, &status);
  check(&status);

  float* q = random_values((size_t)kTokens * kHeads * kDim);
  float* k = random_values((size_t)kTokens * kKvHeads * kDim);
  float* v = random_values((size_t)kTokens * kKvHeads * kDim);
  float* out = random_values((size_t)kTokens * kHeads * kDim);
  tokensieve_tensor q_view, k_view, v_view, out_view;
  tokensieve_tensor_init_bshd(&q_view, q, TOKENSIEVE_F32, 1, kTokens, kHeads, kDim);
  tokensieve_tensor_init_bshd(&k_view, k, TOKENSIEVE_F32, 1, kTokens, kKvHeads, kDim);
  tokensieve_tensor_init_bshd(&v_view, v, TOKENSIEVE_F32, 1, kTokens, kKvHeads, kDim);
  tokensieve_tensor_init_bshd(&out_view, out, TOKENSIEVE_F32, 1, kTokens, kHeads, kDim);
  tokensieve_inputs inputs;
  tokensieve_inputs_init(&inputs);
  inputs.q = &q_view;
  inputs.k = &k_view;
  inputs.v = &v_view;
  tokensieve_outputs outputs;
  tokensieve_outputs_init(&outputs);
  outputs.out = &out_view;

  tokensieve_executor executor;
  tokensieve_thread_pool_executor(pool, &executor);
  tokensieve_report report;
  tokensieve_report_init(&report);
  tokensieve_run_options run_options;
  tokensieve_run_options_init(&run_options);
  run_options.executor = &executor;
  run_options.report = &report;
  size_t bytes = tokensieve_workspace_bytes(plan);
  void* workspace = malloc(bytes + 1);
  tokensieve_run(plan, &inputs, &outputs, workspace, bytes, &run_options, &status);
  check(&status);
  printf("tokensieve %s: %s, kept %.0f %% of the tokens\n", tokensieve_version(),
         report.path == TOKENSIEVE_PATH_SPARSE ? "sparse"
                                               : tokensieve_dense_reason_text(report.reason),
         100 * report.keep_ratio);

  free(workspace);
  free(out);
  free(v);
  free(k);
  free(q);
  tokensieve_thread_pool_free(pool);
  tokensieve_plan_free(plan);
  return report.path == TOKENSIEVE_PATH_SPARSE ? 0 : 1;
}
