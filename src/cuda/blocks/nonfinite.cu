// NaN or inf in q or k: masks that take no part, and masks that visit every tile.
#include "cuda/blocks/estimate.h"
#include "cuda/blocks/rules.h"
#include "cuda/blocks/tokens.h"
#include "cuda/device/launch.h"
#include "cuda/ptx/barrier.h"
#include "cuda/select/scratch.h"

namespace tokensieve::cuda {
namespace {

constexpr int kThreads = 256;

// Grid: batch.
__global__ void __launch_bounds__(kThreads)
    find_unmasked_kernel(const __grid_constant__ SelectParams params,
                         const __grid_constant__ SelectScratch scratch, int32_t* unmasked) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int batch = blockIdx.x;
  const Sequence where = sequence(params.sequences, batch);
  const bool scored =
      where.seqlen_kv > suffix_of(params.suffix, where) && selects(params, where);
  bool bad = false;
  for (int i = threadIdx.x; scored && i < scratch.num_chunks; i += kThreads) {
    bad = bad || scratch.nonfinite[batch * scratch.num_chunks + i] != 0;
  }
  bad = __syncthreads_or(bad);
  if (threadIdx.x == 0) unmasked[batch] = bad;
}

// Grid: words of the mask, masks, batch.
__global__ void __launch_bounds__(kThreads)
    visit_every_kernel(const __grid_constant__ EstimateParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  if (params.scratch.every[static_cast<int64_t>(blockIdx.z) * params.num_masks + blockIdx.y] ==
      0) {
    return;
  }
  const int at = blockIdx.x * kThreads + threadIdx.x;
  if (at >= params.row_tiles * params.words) return;
  const int t = at / params.words;
  const int heads = params.heads.num_q_heads / params.num_masks;
  uint32_t bits = 0;
  for (int head = 0; head < heads; ++head) {
    const TileGrid grid = head_tokens(params, blockIdx.z, blockIdx.y * heads + head).grid;
    if (t < grid.row_tiles()) bits |= tiles_below(grid.end(t), at % params.words);
  }
  mask_bits(params, blockIdx.z, blockIdx.y)[at] = bits;
}

}  // namespace

cudaError_t find_unmasked(const SelectParams& params, int32_t* unmasked, cudaStream_t stream) {
  return launch(find_unmasked_kernel,
                {.grid = dim3(params.sequences.batch), .threads = kThreads}, stream, params,
                select_scratch(params), unmasked);
}

cudaError_t visit_every(const EstimateParams& params, cudaStream_t stream) {
  const int64_t words = static_cast<int64_t>(params.row_tiles) * params.words;
  return launch(visit_every_kernel,
                {.grid = dim3(static_cast<unsigned>((words + kThreads - 1) / kThreads),
                              params.num_masks, params.sequences.batch),
                 .threads = kThreads},
                stream, params);
}

}  // namespace tokensieve::cuda
