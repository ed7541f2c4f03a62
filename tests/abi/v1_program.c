/* A C program as they were written for v1/tokensieve/tokensieve_c.h, the header of version 0.1.0
 * before profiles came into the C ABI. It is frozen, as that header is. */
#include "v1_program.h"

#include <stdlib.h>
#include <string.h>
#include <tokensieve/tokensieve_c.h>

/* The struct ends before `field`, where it ended when it was born. */
#define CUT(type, value, field)                                                \
  do {                                                                         \
    const size_t end = offsetof(type, field);                                  \
    memset((char*)&(value) + end, 0x5a, sizeof(type) - end);                   \
    (value).struct_size = (uint32_t)end;                                       \
  } while (0)

static int32_t make_plan(const v1_call* call, tokensieve_plan** plan, tokensieve_status* status) {
  tokensieve_shape shape;
  tokensieve_shape_init(&shape);
  shape.batch = call->batch;
  shape.seqlen_q = call->seqlen_q;
  shape.seqlen_kv = call->seqlen_kv;
  shape.num_q_heads = call->num_q_heads;
  shape.num_kv_heads = call->num_kv_heads;
  shape.head_dim = call->head_dim;
  shape.sm_scale = call->sm_scale;
  shape.softcap = call->softcap;
  tokensieve_select select;
  tokensieve_select_init(&select);
  select.enabled = call->enabled;
  select.budget = call->budget;
  select.share = call->share;
  select.fill = call->fill;
  select.queries = call->queries;
  select.arithmetic = call->arithmetic;
  select.dense_policy = call->dense_policy;
  select.tau = call->tau;
  select.keep_ratio = call->keep_ratio;
  select.min_drop = call->min_drop;
  select.keep_count = call->keep_count;
  select.min_keep = call->min_keep;
  select.obs_window = call->obs_window;
  select.pool_width = call->pool_width;
  select.protect_first = call->protect_first;
  select.local_window = call->local_window;
  select.sinks = call->sinks;
  tokensieve_options options;
  tokensieve_options_init(&options);
  options.backend = call->backend;
  if (call->born_sizes) {
    CUT(tokensieve_shape, shape, packed);
    CUT(tokensieve_options, options, num_ranks);
  }
  return tokensieve_make_plan(&shape, &select, &options, plan, status);
}

static int32_t run(const v1_call* call, const tokensieve_plan* plan, void* workspace,
                   v1_answer* answer, tokensieve_status* status) {
  tokensieve_tensor q, k, v, out;
  tokensieve_tensor_init_bshd(&q, call->q, TOKENSIEVE_F32, call->batch, call->seqlen_q,
                              call->num_q_heads, call->head_dim);
  tokensieve_tensor_init_bshd(&k, call->k, TOKENSIEVE_F32, call->batch, call->seqlen_kv,
                              call->num_kv_heads, call->head_dim);
  tokensieve_tensor_init_bshd(&v, call->v, TOKENSIEVE_F32, call->batch, call->seqlen_kv,
                              call->num_kv_heads, call->head_dim);
  tokensieve_tensor_init_bshd(&out, answer->out, TOKENSIEVE_F32, call->batch, call->seqlen_q,
                              call->num_q_heads, call->head_dim);
  tokensieve_inputs inputs;
  tokensieve_inputs_init(&inputs);
  inputs.q = &q;
  inputs.k = &k;
  inputs.v = &v;
  inputs.sink_logits = call->sink_logits;
  tokensieve_outputs outputs;
  tokensieve_outputs_init(&outputs);
  outputs.out = &out;
  outputs.lse = answer->lse;
  tokensieve_report report;
  tokensieve_report_init(&report);
  tokensieve_run_options options;
  tokensieve_run_options_init(&options);
  options.report = &report;
  if (call->born_sizes) {
    CUT(tokensieve_inputs, inputs, cu_seqlens_q);
    CUT(tokensieve_run_options, options, stream);
  }
  int32_t code = tokensieve_run(plan, &inputs, &outputs, workspace, answer->workspace_bytes,
                                &options, status);
  answer->run_path = report.path;
  answer->run_reason = report.reason;
  answer->keep_total = report.keep_count;
  answer->keep_ratio = report.keep_ratio;
  answer->work = report.attention_pairs;
  if (code != TOKENSIEVE_OK || answer->path != TOKENSIEVE_PATH_SPARSE) return code;
  tokensieve_keep_set keep;
  tokensieve_keep_set_init(&keep);
  keep.indices = answer->indices;
  keep.capacity = answer->keep_capacity;
  keep.count = answer->count;
  return tokensieve_select_tokens(plan, &inputs, &keep, workspace, answer->workspace_bytes,
                                  &options, status);
}

#define CHECK_INIT(name, call)                                 \
  do {                                                         \
    struct {                                                   \
      tokensieve_##name value;                                 \
      unsigned char behind[256];                               \
    } x;                                                       \
    memset(&x, 0x5a, sizeof(x));                               \
    call;                                                      \
    if (x.value.struct_size != sizeof(x.value)) return #name;  \
    for (size_t i = 0; i < sizeof(x.behind); ++i) {            \
      if (x.behind[i] != 0x5a) return #name;                   \
    }                                                          \
  } while (0)

const char* v1_init_that_overflows(void) {
  CHECK_INIT(status, tokensieve_status_init(&x.value));
  CHECK_INIT(executor, tokensieve_executor_init(&x.value));
  CHECK_INIT(tensor, tokensieve_tensor_init_bshd(&x.value, NULL, TOKENSIEVE_F32, 1, 1, 1, 1));
  CHECK_INIT(shape, tokensieve_shape_init(&x.value));
  CHECK_INIT(select, tokensieve_select_init(&x.value));
  CHECK_INIT(options, tokensieve_options_init(&x.value));
  CHECK_INIT(plan_info, tokensieve_plan_info_init(&x.value));
  CHECK_INIT(keep_set, tokensieve_keep_set_init(&x.value));
  CHECK_INIT(inputs, tokensieve_inputs_init(&x.value));
  CHECK_INIT(outputs, tokensieve_outputs_init(&x.value));
  CHECK_INIT(report, tokensieve_report_init(&x.value));
  CHECK_INIT(run_options, tokensieve_run_options_init(&x.value));
  return NULL;
}

int32_t v1_run(const v1_call* call, v1_answer* answer) {
  tokensieve_status status;
  tokensieve_status_init(&status);
  tokensieve_plan* plan = NULL;
  int32_t code = make_plan(call, &plan, &status);
  if (code == TOKENSIEVE_OK) {
    tokensieve_plan_info info;
    tokensieve_plan_info_init(&info);
    code = tokensieve_plan_get_info(plan, &info, &status);
    answer->path = info.path;
    answer->reason = info.reason;
    answer->num_sets = info.num_sets;
    answer->prefix_len = info.prefix_len;
    answer->keep_capacity = info.keep_capacity;
    answer->workspace_bytes = tokensieve_workspace_bytes(plan);
    void* workspace = malloc(answer->workspace_bytes + 1);
    if (code == TOKENSIEVE_OK) code = run(call, plan, workspace, answer, &status);
    free(workspace);
  }
  tokensieve_plan_free(plan);
  memcpy(answer->message, status.message, sizeof(answer->message));
  return code;
}
