// Work: how many (query, key) pairs a call computes per head. Before a run that is an estimate, for
// the cost model and equal-work studies; reports count what the chosen sets made of it.
#pragma once

#include <cstdint>
#include <span>

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

// A sparse sequence of `plan` that keeps `keep` prefix tokens, as if they were evenly spread. Where
// tokens lie matters to local fill alone.
SparsePairs sparse_pairs(const Plan& plan, int64_t keep);

// Whether pairs depend on more than the number of kept tokens, so that far_pairs must count them.
bool has_far_pairs(const SelectConfig& select);

// Pairs of the call's kept rows and the kept keys between their sinks and windows. `kept`: a set of
// the sequence, ascending.
int64_t far_pairs(const Plan& plan, std::span<const int32_t> kept);

// The pairs of a sparse sequence whose sets, each of `keep` prefix tokens, have so many far pairs
// together; per query head, the mean of all.
double counted_pairs(const Plan& plan, int64_t keep, int64_t far_pairs_of_all_sets);

}  // namespace tokensieve
