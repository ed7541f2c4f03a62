// Stage estimate on Hopper, host side.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/blocks/params.h"
#include "tokensieve/status.h"

namespace tokensieve::cuda::sm90 {

// q, k -> bits of the config's pattern: kFlex, kPooled or kAntidiagonal.
Status estimate(const EstimateParams& params, Element element, int head_dim, cudaStream_t stream);

// Its kernels of wgmma: q, k -> verticals, diagonals (kFlex).
cudaError_t probe(const EstimateParams& params, Element element, int head_dim,
                  cudaStream_t stream);
// row_means, key_means -> map, of query-aware heads among [first, first + map_heads) of all
// sequences.
cudaError_t row_map(const EstimateParams& params, int first, Element element, int head_dim,
                    cudaStream_t stream);
// q, key_means -> bits, every (kPooled).
cudaError_t pooled(const EstimateParams& params, Element element, int head_dim,
                   cudaStream_t stream);
// q, k -> bits, every (kAntidiagonal).
cudaError_t antidiagonal(const EstimateParams& params, Element element, int head_dim,
                         cudaStream_t stream);

}  // namespace tokensieve::cuda::sm90
