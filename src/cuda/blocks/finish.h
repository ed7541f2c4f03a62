// Block masks on the device. An estimator (or take_scores, or the caller) leaves bits of any value
// above the diagonal and past the end; finish_masks counts what attend visits of them. Nothing
// waits, allocates or reads device memory on the host, so a graph can be replayed with other masks.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/params.h"

namespace tokensieve::cuda {

// BlockPattern::kScores.
cudaError_t take_scores(const BlockScoreParams& params, cudaStream_t stream);

// keys: of the pass, kCausal or kLimited.
cudaError_t finish_masks(const FinishParams& params, Keys keys, cudaStream_t stream);

}  // namespace tokensieve::cuda
