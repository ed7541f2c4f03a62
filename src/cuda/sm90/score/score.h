// Stage score on Hopper, host side.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/device/element.h"
#include "cuda/params.h"
#include "tokensieve/status.h"

namespace tokensieve::cuda::sm90 {

// Enqueues both passes over K.
Status score(const ScoreParams& params, Element element, int head_dim, cudaStream_t stream);

}  // namespace tokensieve::cuda::sm90
