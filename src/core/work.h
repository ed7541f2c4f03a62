// Work: how many (query, key) pairs a call computes per head. One formula for the cost model,
// reports and equal-work studies.
#pragma once

#include "tokensieve/attention.h"

namespace tokensieve {

// What dense attention computes.
double dense_pairs(const AttentionShape& shape);

// Of a sparse sequence, by the pass that computes them (docs/kernels).
struct SparsePairs {
  double compact = 0;  // kept rows and kept keys; chunks: rows of the chunk
  double local = 0;    // every row and its sinks and window (local fill)
  double all() const { return compact + local; }
};

// A sparse sequence of `plan` that keeps `keep` prefix tokens, evenly spread.
SparsePairs sparse_pairs(const Plan& plan, int64_t keep);

}  // namespace tokensieve
