// How many prefix tokens a sequence keeps: the rules of core/budget.h.
#pragma once

#include "cuda/select/fixed_point.h"
#include "tokensieve/select.h"

namespace tokensieve::cuda {

struct BudgetRule {
  BudgetPolicy budget;
  double keep_ratio;
  int64_t keep_count;
  int64_t min_keep;
  int32_t protect_first;
  double keep_limit;
  int64_t capacity;
};

// Kept prefix tokens; `dropped`: how many the tau rule may drop, without its "one more".
TOKENSIEVE_HOST_DEVICE int64_t kept_prefix(const BudgetRule& rule, int64_t prefix_len,
                                           int64_t dropped) {
  int64_t keep = rule.keep_count;
  if (rule.budget == BudgetPolicy::kTau) {
    keep = dropped == 0 ? prefix_len : prefix_len - (dropped + 1);
  }
  if (rule.budget == BudgetPolicy::kKeepRatio) {
    keep = static_cast<int64_t>(floor(rule.keep_ratio * static_cast<double>(prefix_len)));
  }
  if (keep < rule.min_keep) keep = rule.min_keep;
  if (keep < rule.protect_first) keep = rule.protect_first;
  return keep < prefix_len ? keep : prefix_len;
}

TOKENSIEVE_HOST_DEVICE bool runs_dense(const BudgetRule& rule, int64_t prefix_len, int64_t keep,
                                       int64_t suffix) {
  return keep >= prefix_len ||
         keep > static_cast<int64_t>(floor(rule.keep_limit * static_cast<double>(prefix_len))) ||
         keep + suffix > rule.capacity;
}

}  // namespace tokensieve::cuda
