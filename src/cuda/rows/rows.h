// Stages that move rows. Each function enqueues its kernel on `stream` and returns the launch
// status; none synchronises, allocates or keeps anything.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/device/element.h"
#include "cuda/params.h"

namespace tokensieve::cuda {

// What read_report counts.
struct FarPairsParams {
  Sequences sequences;
  Selection selection;
  Local local;
  int64_t* far_pairs;  // [batch, num_sets] 0 for a dense sequence
};

// Kept tokens that the caller gives -> Selection.
cudaError_t take_given(const GivenParams& params, cudaStream_t stream);

// Pairs of kept rows and kept keys between their sinks and windows, after a run.
cudaError_t count_far_pairs(const FarPairsParams& params, cudaStream_t stream);

// Stage compact: K and V of every set.
cudaError_t compact_kv(const CompactParams& params, Element element, int head_dim,
                       cudaStream_t stream);

// The public compact and scatter of any [batch, seq, head, dim] tensor of 16-bit elements. Of the
// selection they need indices, num_sets and capacity; count [batch] is KeepSet's.
cudaError_t gather_rows(const Sequences&, const Selection&, const int64_t* count, const Tensor& x,
                        int heads, const Tensor& compacted, int heads_out, int row_bytes,
                        cudaStream_t stream);
cudaError_t scatter_rows(const Sequences&, const Selection&, const int64_t* count,
                         const Tensor& compacted, const Tensor& out, int heads, int row_bytes,
                         cudaStream_t stream);

}  // namespace tokensieve::cuda
