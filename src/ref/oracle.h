// The oracle: Token Sparse Attention in double precision, written to be read.
//
// It defines what every backend must compute. Backend::kRef wraps it; tests and `tokensieve
// verify` call it directly, because they need the doubles and what the stages hand over.
#pragma once

#include <vector>

#include "ref/budget.h"
#include "tokensieve/attention.h"

namespace tokensieve::ref {

// What stages score, budget and select chose for one sequence. All empty if the plan is dense.
struct Selection {
  DenseReason reason = DenseReason::kNone;  // not kNone: the sequence runs dense
  bool gather_failed = false;               // the caller's all_gather did; nothing else counts
  std::vector<double> token_score;          // [layer_heads, prefix_len], those of all ranks
  Budget budget;
  // [num_sets][keep + suffix_len], ascending; empty if the sequence runs dense.
  std::vector<std::vector<int32_t>> kept;

  bool dense() const { return reason != DenseReason::kNone; }
  const std::vector<int32_t>& kept_of(const Plan& plan, int64_t q_head) const {
    return kept[q_head * plan.num_sets / plan.shape.num_q_heads];
  }
};

struct OracleResult {
  std::vector<Selection> sequences;  // [batch]
  std::vector<double> densities;     // [batch], of the block masks
  std::vector<double> out;           // [batch, seqlen_q, num_q_heads, head_dim]
  std::vector<double> lse;           // [batch, num_q_heads, seqlen_q]
  RunReport report;
};

// Works for plans of every backend. The arguments must have passed the checks of run().
Status run_oracle(const Plan& plan, const AttentionInputs& inputs, const RunOptions& options,
                  OracleResult& result);

// Stages score, budget and select of sequence b, or the sets that inputs.keep gives.
Selection select_sequence(const Plan& plan, const AttentionInputs& inputs, int64_t b,
                          const RunOptions& options);

}  // namespace tokensieve::ref
