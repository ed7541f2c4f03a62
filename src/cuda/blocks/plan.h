// What stage estimate needs that follows from the plan.
#pragma once

#include "cuda/arena.h"
#include "cuda/blocks/params.h"
#include "tokensieve/attention.h"

namespace tokensieve::cuda {

// Whether the device chooses the tiles from q and k.
constexpr bool estimates(const Plan& plan) {
  return plan.blocks.pattern > BlockPattern::kScores;
}

// All but tensors, selection and scratch.
EstimateParams estimate_params(const Plan& plan, int num_multiprocessors);
EstimateScratch lay_out_estimate(const Plan& plan, int num_multiprocessors, Arena& arena);

Status check_estimate(const Plan& plan);

}  // namespace tokensieve::cuda
