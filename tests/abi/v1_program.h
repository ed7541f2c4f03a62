/* What v1_test.cc has v1_program.c do: plain values, since one knows today's structs and the other
 * those of v1/. */
#ifndef TOKENSIEVE_TESTS_ABI_V1_PROGRAM_H_
#define TOKENSIEVE_TESTS_ABI_V1_PROGRAM_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One call on contiguous f32 tensors [batch, seq, head, dim]. */
typedef struct v1_call {
  int32_t backend;
  int32_t born_sizes; /* 1: structs end where they ended at their birth, with garbage behind */
  int64_t batch, seqlen_q, seqlen_kv;
  int32_t num_q_heads, num_kv_heads, head_dim;
  float sm_scale, softcap;
  int32_t enabled, budget, share, fill, queries, arithmetic, dense_policy;
  double tau, keep_ratio, min_drop;
  int64_t keep_count, min_keep;
  int32_t obs_window, pool_width, protect_first, local_window, sinks;
  const float *q, *k, *v;
  const float* sink_logits;
} v1_call;

/* What the library answers; the caller owns the memory, large enough for anything. */
typedef struct v1_answer {
  char message[320];
  float *out, *lse;
  int32_t* indices; /* [batch, num_sets, keep_capacity] */
  int64_t* count;
  size_t workspace_bytes;
  int32_t path, reason, num_sets;
  int64_t prefix_len, keep_capacity;
  int32_t run_path, run_reason;
  int64_t keep_total;
  double keep_ratio, work;
} v1_answer;

/* Plans, runs and, if the plan is sparse, selects: the code of the first call that fails, or 0. */
int32_t v1_run(const v1_call* call, v1_answer* answer);

/* The struct whose init function writes past this program's struct, or another size; NULL: none. */
const char* v1_init_that_overflows(void);

#ifdef __cplusplus
}
#endif

#endif /* TOKENSIEVE_TESTS_ABI_V1_PROGRAM_H_ */
