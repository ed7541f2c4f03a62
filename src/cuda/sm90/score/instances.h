// Body of score_instance: what an instantiation file compiles.
#pragma once

#include "cuda/sm90/score/kernel.h"

namespace tokensieve::cuda::sm90 {

template <typename T, int kHeadDim>
cudaError_t score_instance(const ScoreParams& params, const CUtensorMap& k_map,
                           cudaStream_t stream) {
  return params.softmax.softcap > 0.0f
             ? launch_score<ScoreTraits<T, kHeadDim, true>>(params, k_map, stream)
             : launch_score<ScoreTraits<T, kHeadDim, false>>(params, k_map, stream);
}

}  // namespace tokensieve::cuda::sm90
