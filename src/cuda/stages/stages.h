// Host entry points of the stages before attend. Each enqueues its kernels on `stream` and returns
// the launch status; none synchronises, allocates or keeps anything.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/params.h"

namespace tokensieve::cuda {

// Stage score: raw token_score by two passes over K. head_dim 64, 128, 256. k_map: the 4D map
// {dim, seq, head, batch} of k with boxes {64, 64, 1, 1} and the 128-byte swizzle.
cudaError_t score(const ScoreParams& params, const CUtensorMap& k_map, int head_dim, bool bf16,
                  cudaStream_t stream);
// Key ranges that score works on: what split_stats is sized for.
int score_splits(const Sequences& sequences, const Heads& heads, int num_multiprocessors);

// Stages budget and select: token_score -> Selection.
cudaError_t select(const SelectParams& params, cudaStream_t stream);
size_t select_scratch_bytes(const SelectParams& params);

// Kept tokens that the caller gives -> Selection.
cudaError_t take_given(const GivenParams& params, cudaStream_t stream);

// Stage compact.
cudaError_t compact(const CompactParams& params, cudaStream_t stream);

// The public compact and scatter of any [batch, seq, head, dim] tensor. Of the selection they need
// indices, num_sets and capacity; count [batch] is KeepSet's.
cudaError_t gather_rows(const Sequences&, const Selection&, const int64_t* count, const Tensor& x,
                        int heads, const Tensor& compacted, int heads_out, int row_bytes,
                        cudaStream_t stream);
cudaError_t scatter_rows(const Sequences&, const Selection&, const int64_t* count,
                         const Tensor& compacted, const Tensor& out, int heads, int row_bytes,
                         cudaStream_t stream);

}  // namespace tokensieve::cuda
