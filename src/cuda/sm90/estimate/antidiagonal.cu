// kAntidiagonal: groups of `stride` queries against groups of `stride` keys, by the sum of their
// products along an antidiagonal: a product of rows of stride * head_dim elements.
//
// A CTA takes 128 row groups of a head, that is `stride` row tiles. group_sums.h leaves sums over
// key tiles in its scratch; here they are normalised and the tiles chosen.
#include "cuda/blocks/fewest.h"
#include "cuda/blocks/rules.h"
#include "cuda/device/dispatch.h"
#include "cuda/device/launch.h"
#include "cuda/sm90/estimate/estimate.h"
#include "cuda/sm90/estimate/group_sums.h"

namespace tokensieve::cuda::sm90 {
namespace {

// Keys of a row tile's others; this lane wrote what it reads.
struct OtherTiles {
  const float* sums;
  int64_t begin, end;  // of those that are not forced
  __device__ __forceinline__ uint32_t key(int c) const {
    return c >= begin && c < end ? score_key(sums[c]) : kNoKey;
  }
};

// Probabilities of a row tile's groups, summed over each key tile, into its first group's row.
template <class Traits>
__device__ __forceinline__ void normalise(const GroupWork& work, int row, int groups, int end,
                                          const GroupShared<Traits>& shared) {
  float* sums = work.sums + static_cast<int64_t>(row) * work.key_tiles;
  const float* tops = work.tops + static_cast<int64_t>(row) * work.top_stride;
  for (int c = threadIdx.x % 32; c < end; c += 32) {
    float sum = 0.0f;
    for (int g = 0; g < groups; ++g) {
      const float top = tops[g * work.top_stride + c / Traits::kChunkTiles];
      sum += sums[static_cast<int64_t>(g) * work.key_tiles + c] *
             (ptx::exp2(top - shared.top[row + g]) * shared.share[row + g]);
    }
    sums[c] = sum;
  }
}

// Chooses the tiles of row tile `r` of the block; a warp.
template <class Traits>
__device__ __forceinline__ void choose_row(const GroupWork& work, int r, double threshold,
                                           const GroupShared<Traits>& shared, uint32_t* bits,
                                           int words) {
  const TileGrid& grid = work.tokens.grid;
  const int row = r * Traits::kTileGroups;
  const int64_t t = (work.first_group + row) / Traits::kTileGroups;
  const int end = row < work.groups ? static_cast<int>(grid.end(t)) : 0;
  normalise<Traits>(work, row, min(Traits::kTileGroups, work.groups - row), end, shared);
  const OtherTiles others = {work.sums + static_cast<int64_t>(row) * work.key_tiles, 1,
                             min(grid.diagonal(t), int64_t{end})};
  const WarpLanes lanes;
  const FewestTiles fewest = fewest_tiles(lanes, others, end, threshold);
  uint32_t equal_before = 0;
  for (int word = 0; word < words; ++word) {
    const int c = word * 32 + static_cast<int>(threadIdx.x % 32);
    const bool forced = c < end && antidiagonal_forced(grid, t, c);
    const uint32_t key = c < end ? others.key(c) : kNoKey;
    const uint32_t above = __ballot_sync(~0u, forced || (key != kNoKey && key > fewest.key));
    const uint32_t equal = __ballot_sync(~0u, key == fewest.key);
    if (threadIdx.x % 32 == 0) {
      bits[word] = RankedWord{above, equal, 0, equal_before}.kept(fewest.ties);
    }
    equal_before += __popc(equal);
  }
}

// Blocks with the most keys come first.
template <class Traits>
__global__ void __launch_bounds__(kGroupThreads, 1)
    antidiagonal_kernel(const __grid_constant__ EstimateParams params, int head_dim, int blocks) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& shared = *reinterpret_cast<GroupShared<Traits>*>(raw);
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int heads = params.heads.num_q_heads;
  const int64_t rows_of_block = static_cast<int64_t>(heads) * params.sequences.batch;
  const float factor = params.sm_scale * kLog2e / Traits::kStride;
  for (int64_t item = blockIdx.x; item < rows_of_block * blocks; item += gridDim.x) {
    const int64_t block = blocks - 1 - item / rows_of_block;
    const int head = static_cast<int>(item % heads);
    const int batch = static_cast<int>(item % rows_of_block / heads);
    const GroupWork work = group_work<Traits>(params, batch, head, block, head_dim);
    find_queries<Traits>(work, shared);
    if (!sum_chunks<Traits>(work, factor, shared)) {
      atomicOr(params.scratch.every + batch * params.num_masks + head, 1u);
    }
    const double threshold = mask_threshold(params, head, params.config.threshold);
    for (int r = threadIdx.x / 32; r < Traits::kStride; r += kGroupWarps) {
      const int64_t t = block * Traits::kStride + r;
      if (t >= params.row_tiles) break;
      choose_row<Traits>(work, r, threshold, shared,
                         mask_bits(params, batch, head) + t * params.words, params.words);
    }
    __syncthreads();  // scratch and tables are free
  }
}

template <class Traits>
cudaError_t launch_groups(const EstimateParams& params, int head_dim, cudaStream_t stream) {
  constexpr int kRows = kRowGroups * Traits::kStride;
  static_assert(sizeof(GroupShared<Traits>) <= 227 * 1024);
  const int blocks = (params.sequences.seqlen_q + kRows - 1) / kRows;
  const int64_t items =
      static_cast<int64_t>(blocks) * params.heads.num_q_heads * params.sequences.batch;
  return launch(antidiagonal_kernel<Traits>,
                {.grid = dim3(static_cast<unsigned>(items < params.ctas ? items : params.ctas)),
                 .threads = kGroupThreads,
                 .shared_bytes = sizeof(GroupShared<Traits>)},
                stream, params, head_dim, blocks);
}

template <typename T>
cudaError_t launch_stride(const EstimateParams& params, int head_dim, cudaStream_t stream) {
  switch (params.config.stride) {
    case 8:
      return launch_groups<GroupTraits<T, 8>>(params, head_dim, stream);
    case 16:
      return launch_groups<GroupTraits<T, 16>>(params, head_dim, stream);
  }
  return launch_groups<GroupTraits<T, 32>>(params, head_dim, stream);
}

}  // namespace

cudaError_t antidiagonal(const EstimateParams& params, Element element, int head_dim,
                         cudaStream_t stream) {
  return element == Element::kBF16 ? launch_stride<__nv_bfloat16>(params, head_dim, stream)
                                   : launch_stride<__half>(params, head_dim, stream);
}

}  // namespace tokensieve::cuda::sm90
