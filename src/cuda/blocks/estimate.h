// Stage estimate: kernels for every generation. Each function enqueues its kernel on `stream` and
// returns the launch status; none synchronises, allocates or keeps anything.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/blocks/params.h"

namespace tokensieve::cuda {

// k -> key_means; q of query-aware heads -> row_means.
cudaError_t pool_keys(const EstimateParams& params, Element element, int head_dim,
                      cudaStream_t stream);
cudaError_t pool_rows(const EstimateParams& params, Element element, int head_dim,
                      cudaStream_t stream);

// kFlex, in this order: verticals, diagonals -> covers; covers, key_means -> kinds, lines; lines ->
// bits; the map of heads [first, first + map_heads) of all sequences -> more bits.
cudaError_t count_lines(const EstimateParams& params, cudaStream_t stream);
cudaError_t choose_lines(const EstimateParams& params, Element element, int head_dim,
                         cudaStream_t stream);
cudaError_t build_lines(const EstimateParams& params, cudaStream_t stream);
cudaError_t choose_tiles(const EstimateParams& params, int first, cudaStream_t stream);

// From what select found out: sequences that run dense because of NaN or inf in their scores.
// Between select and compact, which writes where select worked.
cudaError_t find_unmasked(const SelectParams& params, int32_t* unmasked, cudaStream_t stream);

// Sets all tiles of masks whose estimate met NaN or inf.
cudaError_t visit_every(const EstimateParams& params, cudaStream_t stream);

}  // namespace tokensieve::cuda
