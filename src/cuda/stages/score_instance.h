// Body of score_instance: what a score_*.cu file compiles.
#pragma once

#include "cuda/stages/score_kernel.h"

namespace tokensieve::cuda {

template <typename Element, int kHeadDim>
cudaError_t score_instance(const ScoreParams& params, const CUtensorMap& k_map,
                           cudaStream_t stream) {
  return params.softmax.softcap > 0.0f
             ? launch_score<ScoreTraits<Element, kHeadDim, true>>(params, k_map, stream)
             : launch_score<ScoreTraits<Element, kHeadDim, false>>(params, k_map, stream);
}

}  // namespace tokensieve::cuda
