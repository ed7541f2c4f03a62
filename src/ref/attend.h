// Stage attend, in its direct form: for every row the set of keys that it sees, and one softmax
// over exactly these. Backends reach the same rows by compacting and merging.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ref/blocks.h"
#include "ref/oracle.h"
#include "tokensieve/attention.h"

namespace tokensieve::ref {

// Tokens that the query at position `position` sees, ascending. kept: its head's kept tokens;
// ignored when `dense`.
std::vector<int32_t> visible_keys(const Plan& plan, bool dense, std::span<const int32_t> kept,
                                  int64_t position);

// (query, key) pairs that a sequence computes per query head: the visible keys of all its rows,
// counted; the mean over its sets.
double visible_pairs(const Plan& plan, const Selection& selection);

// One query of one head and the sequence that it looks at.
struct QueryRow {
  const Plan& plan;
  const AttentionInputs& inputs;
  int64_t b, head, row;  // row of q
  const double* keys;    // [seqlen_kv, head_dim] of the head's kv head, in token order
  const double* values;
};

// Softmax attention of a row over `tokens`: writes out [head_dim], returns lse. No visible key, or
// every one masked: zeros and -inf.
double attend_row(const QueryRow& row, std::span<const int32_t> tokens, double* out);

// Writes out [seqlen_q, num_q_heads, head_dim] and lse [num_q_heads, seqlen_q] of sequence b.
Status attend(const Plan& plan, const AttentionInputs& inputs, int64_t b,
              const Selection& selection, const Masks& masks, const RunOptions& options,
              double* out, double* lse);

}  // namespace tokensieve::ref
