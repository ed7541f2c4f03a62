// Stage score: how much attention the newest queries pay to each prefix token.
#pragma once

#include <vector>

#include "tokensieve/attention.h"

namespace tokensieve::ref {

// token_score [num_q_heads, prefix_len] of sequence b: the mean over the last obs_window queries
// of the causal softmax over all keys, taken at the prefix. sm_scale, softcap and the attention
// sinks in the denominator are those of the attention.
std::vector<double> score(const Plan& plan, const AttentionInputs& inputs, int64_t b,
                          Executor& executor);

// One sequence's rows of k or v as doubles, [num_kv_heads, seqlen_kv, head_dim], in token order.
std::vector<double> load_sequence(const TensorView& x, const int32_t* kv_indices, int64_t b,
                                  int64_t seqlen);

// q . k, before softcap.
double dot(const double* a, const double* b, int64_t size);

// scale * q . k, softcapped.
double logit(const AttentionShape& shape, const double* q, const double* k);

// In place; sink_mass (or null) is one more logit of the denominator.
void softmax(std::vector<double>& logits, const float* sink_mass = nullptr);

}  // namespace tokensieve::ref
