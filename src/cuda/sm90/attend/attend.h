// Host entry point of stage attend.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/params.h"

namespace tokensieve::cuda::sm90 {

// Enqueues one pass. head_dim 64, 128, 256; bf16 or f16.
cudaError_t attend(const AttendParams& params, Keys keys, int head_dim, bool bf16,
                   cudaStream_t stream);

}  // namespace tokensieve::cuda::sm90
