// What the two kernels of select share.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/device/sequence.h"
#include "cuda/params.h"
#include "cuda/select/fixed_point.h"

namespace tokensieve::cuda {

inline constexpr int kSmoothTile = 128;  // tokens of a head that a warp smooths at once

// Scratch of select. A chunk is what one CTA of the smooth kernel works on.
struct SelectScratch {
  int chunk_tokens;  // a multiple of kSmoothTile
  int num_chunks;
  int num_rows;           // sets, then the mean
  RowSummary* summaries;  // [batch, num_rows, num_chunks]
  uint32_t* nonfinite;    // [batch, num_chunks] a score is NaN or infinite
};

inline SelectScratch select_scratch(const SelectParams& params) {
  constexpr int kMaxChunks = 512;
  const int64_t tiles = (int64_t{params.longest_prefix} + kSmoothTile - 1) / kSmoothTile;
  const int64_t tiles_per_chunk = (tiles + kMaxChunks - 1) / kMaxChunks;
  SelectScratch scratch;
  scratch.chunk_tokens = static_cast<int>(tiles_per_chunk > 0 ? tiles_per_chunk : 1) * kSmoothTile;
  const int64_t chunks =
      (int64_t{params.longest_prefix} + scratch.chunk_tokens - 1) / scratch.chunk_tokens;
  scratch.num_chunks = static_cast<int>(chunks > 0 ? chunks : 1);
  scratch.num_rows = params.selection.num_sets + 1;
  scratch.summaries = static_cast<RowSummary*>(params.scratch);
  scratch.nonfinite = reinterpret_cast<uint32_t*>(
      scratch.summaries +
      static_cast<int64_t>(params.sequences.batch) * scratch.num_rows * scratch.num_chunks);
  return scratch;
}

// Every set is a single head's: then, in reference rounding, its scores are normalised.
__host__ __device__ inline bool own_sets(const SelectParams& params) {
  return params.heads_per_set == 1;
}

// The first kernel: average pooling and means over heads: token_score -> ranked, mean, summaries,
// nonfinite.
cudaError_t smooth(const SelectParams& params, const SelectScratch& scratch, cudaStream_t stream);

}  // namespace tokensieve::cuda
