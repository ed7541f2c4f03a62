// Host entry point of stage score.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "cuda/device/element.h"
#include "cuda/params.h"

namespace tokensieve::cuda::sm90 {

// Enqueues both passes over K. k_map: of k, with boxes of kScoreBoxRows (traits.h) rows.
cudaError_t score(const ScoreParams& params, const CUtensorMap& k_map, Element element,
                  int head_dim, cudaStream_t stream);

}  // namespace tokensieve::cuda::sm90
