// Stages budget and select.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/params.h"

namespace tokensieve::cuda {

// token_score -> Selection. Enqueues both kernels; returns the launch status.
cudaError_t select(const SelectParams& params, cudaStream_t stream);
size_t select_scratch_bytes(const SelectParams& params);

}  // namespace tokensieve::cuda
