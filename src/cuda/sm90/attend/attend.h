// Host entry point of stage attend.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/device/element.h"
#include "cuda/params.h"

namespace tokensieve::cuda::sm90 {

// Enqueues one pass.
cudaError_t attend(const AttendParams& params, Keys keys, Element element, int head_dim,
                   cudaStream_t stream);

}  // namespace tokensieve::cuda::sm90
