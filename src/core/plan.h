// Plan-time and run-time choices between sparse and dense.
#pragma once

#include "tokensieve/attention.h"

namespace tokensieve {

// Query heads of the layer, those of all ranks, and the first of this rank's.
inline int64_t layer_heads(const Plan& plan) {
  return int64_t{plan.shape.num_q_heads} * plan.options.num_ranks;
}
inline int64_t first_head(const Plan& plan) {
  return int64_t{plan.shape.num_q_heads} * plan.options.rank;
}

// Tokens after the prefix of a sparse sequence with so many queries: the window that scores, or the
// chunk.
inline int64_t suffix_of(const SelectConfig& select, int64_t seqlen_q) {
  return select.queries == Queries::kAll ? seqlen_q : select.obs_window;
}

// Heads whose smoothed scores a set averages, out of the layer's: set s takes heads_per_set from
// first + s * heads_per_set on.
struct SetHeads {
  int64_t first;
  int64_t heads_per_set;
};
SetHeads set_heads(const Plan& plan);

// The dense path's reason if a sequence that keeps `keep` prefix tokens should run dense, else
// kNone.
DenseReason dense_after_budget(const Plan& plan, int64_t keep);

// The most prefix tokens in [least, most] that a sequence keeps without running dense; `least` must
// run sparse.
int64_t max_sparse_keep(const Plan& plan, int64_t least, int64_t most);

// Costs of the break-even model, in units of the time of one (query, key) pair of
// dense attention at the same head_dim. Constants with their derivation: core/plan.cc.
struct CostModel {
  double score_pair;   // one (obs query, key) pair of stage score
  double gather_row;   // packing one row of K and V of one set
  double sparse_pair;  // one pair of the sparse passes: ragged tiles do more than they count
  double local_pair;   // one pair of local fill's local pass
  double fixed;        // per sequence and head: select, phase changes
  double call;         // per call, at head_dim 128: launches
};
const CostModel& cost_model(const PlanOptions& options);

}  // namespace tokensieve
