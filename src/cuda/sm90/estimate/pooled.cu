// kPooled: every query of a row tile against the mean key of every tile before it. A tile's energy
// is the sum of its exponentials; tiles near the row tile's best are visited.
#include "cuda/blocks/rules.h"
#include "cuda/device/dispatch.h"
#include "cuda/device/launch.h"
#include "cuda/sm90/estimate/estimate.h"
#include "cuda/sm90/estimate/product.h"

namespace tokensieve::cuda::sm90 {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxChunks = kMaxKeyTiles / kBlock;  // of 128 key tiles

// Then float energy[key_tiles].
template <class Traits>
struct PooledShared {
  alignas(1024) typename Traits::Element q[Traits::kElements];
  alignas(1024) typename Traits::Element k[Traits::kElements];
  float parts[kWarps][kBlock];
  float top[kMaxChunks];  // what a chunk's energies are relative to
  float warp_top[kWarps];
};

// A head's share in a mask's row tile.
struct PooledHead {
  HeadTokens tokens;
  RowSource means;
  int64_t tile;
  int scored;  // key tiles; none where all are visited

  __device__ __forceinline__ PooledHead(const EstimateParams& params, int head, int head_dim,
                                        bool shared)
      : tokens(head_tokens(params, blockIdx.z, head)),
        means(key_means(params, tokens, head_dim)),
        tile(blockIdx.x),
        scored(tile < tokens.grid.row_tiles() - params.config.last_tiles
                   ? static_cast<int>(pooled_scored(tokens.grid, tile, shared))
                   : 0) {}
};

template <class Traits, class Shared>
__device__ __forceinline__ void start_queries(const EstimateParams& params, const PooledHead& head,
                                              Shared& shared) {
  const RowSource q = q_source(params, head.tokens);
  const int64_t first = head.tokens.grid.row_begin(head.tile);
  const int64_t rows = head.tokens.grid.row_end(head.tile) - first;
  start_rows<Traits>(shared.q, q.first, [&](int row) {
    return row < rows ? q.at(head.tokens.q_row(first + row)) : nullptr;
  });
}

template <class Traits, class Shared>
__device__ __forceinline__ void start_means(const PooledHead& head, int chunk, Shared& shared) {
  const int first = chunk * kBlock;
  const int rows = head.scored - first;
  if (rows <= 0) return;
  const char* from = head.means.at(first);
  start_rows<Traits>(shared.k, from, [&](int row) {
    return row < rows ? from + row * head.means.stride : nullptr;
  });
}

// Logits in base 2 of rows that see all of the chunk's tiles. False: NaN or inf.
__device__ __forceinline__ bool scale_logits(float factor, float (&s)[kAccumulators]) {
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kAccumulators; ++i) {
    finite = finite && s[i] < -ptx::negative_infinity();
    s[i] *= factor;
  }
  return finite;
}

// Whether all rows of a whole row tile see all tiles of a chunk, however many heads share a mask.
__device__ __forceinline__ bool sees_chunk(const TileGrid& grid, int64_t tile, int first_tile,
                                           int scored) {
  return first_tile + kBlock <= scored && grid.row_end(tile) - grid.row_begin(tile) == kBlock &&
         static_cast<int64_t>(first_tile + kBlock) * kBlock <= grid.row_begin(tile);
}

// The same, with -inf where a row does not see a tile.
__device__ __forceinline__ bool mask_unseen(const TileGrid& grid, int64_t tile, int first_tile,
                                            int scored, bool shared, float factor,
                                            float (&s)[kAccumulators]) {
  const int position = static_cast<int>(grid.row_begin(tile)) + own_row();
  const int end = static_cast<int>(grid.row_end(tile));
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kAccumulators; ++i) {
    const int row = position + (i & 2 ? 8 : 0);
    const int c = first_tile + own_column() + column_of(i);
    const bool seen = row < end && c < scored && row >= pooled_first_query(grid, c, shared);
    finite = finite && (!seen || s[i] < -ptx::negative_infinity());
    s[i] = seen ? s[i] * factor : ptx::negative_infinity();
  }
  return finite;
}

template <class Shared>
__device__ __forceinline__ float top_of(const float (&s)[kAccumulators], Shared& shared) {
  float top = s[0];
#pragma unroll
  for (int i = 1; i < kAccumulators; ++i) top = fmaxf(top, s[i]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
  if (threadIdx.x % 32 == 0) shared.warp_top[threadIdx.x / 32] = top;
  __syncthreads();
  top = shared.warp_top[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) top = fmaxf(top, shared.warp_top[i]);
  return top;
}

// Adds a chunk's column sums of exp2(s - top) to its energies.
template <class Shared>
__device__ __forceinline__ void add_energies(float (&s)[kAccumulators], int chunk, bool first,
                                             float* energy, int tiles, Shared& shared) {
  float top = top_of(s, shared);
  const float before = first ? ptx::negative_infinity() : shared.top[chunk];
  top = fmaxf(top, before);
  const float offset = top == ptx::negative_infinity() ? 0.0f : top;
#pragma unroll
  for (int i = 0; i < kAccumulators; i += 4) {
#pragma unroll
    for (int j = i; j < i + 2; ++j) {
      float sum = ptx::exp2(s[j] - offset) + ptx::exp2(s[j + 2] - offset);
      sum += __shfl_xor_sync(~0u, sum, 4);
      sum += __shfl_xor_sync(~0u, sum, 8);
      sum += __shfl_xor_sync(~0u, sum, 16);
      if (threadIdx.x % 32 < 4) {
        shared.parts[threadIdx.x / 32][own_column() + column_of(j)] = sum;
      }
    }
  }
  __syncthreads();
  const int c = chunk * kBlock + static_cast<int>(threadIdx.x);
  if (threadIdx.x < kBlock && c < tiles) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += shared.parts[i][threadIdx.x];
    energy[c] = (first ? 0.0f : energy[c] * ptx::exp2(before - offset)) + sum;
  }
  if (threadIdx.x == 0) shared.top[chunk] = top;
}

// All energies relative to the row tile's maximum; returns the largest.
template <class Shared>
__device__ __forceinline__ float settle(int scored, float* energy, Shared& shared) {
  __syncthreads();
  float top = ptx::negative_infinity();
  for (int chunk = 0; chunk * kBlock < scored; ++chunk) top = fmaxf(top, shared.top[chunk]);
  float most = 0.0f;
  for (int c = threadIdx.x; c < scored; c += kWarps * 32) {
    const float own = shared.top[c / kBlock];
    const float scale = own == ptx::negative_infinity() ? 0.0f : ptx::exp2(own - top);
    energy[c] *= scale;
    most = fmaxf(most, energy[c]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.warp_top[threadIdx.x / 32] = most;
  __syncthreads();
  most = shared.warp_top[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) most = fmaxf(most, shared.warp_top[i]);
  return most;
}

// Tiles that a mask's row tile visits whatever its energies.
__device__ __forceinline__ uint32_t forced_word(const EstimateParams& params, int mask, int heads,
                                                int word) {
  uint32_t forced = 0;
  for (int h = 0; h < heads; ++h) {
    const TileGrid grid = head_tokens(params, blockIdx.z, mask * heads + h).grid;
    if (blockIdx.x < grid.row_tiles()) {
      forced |= pooled_forced(params.config, grid, blockIdx.x, word);
    }
  }
  return forced;
}

// Grid: row tiles, masks, batch.
template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kCtas)
    pooled_kernel(const __grid_constant__ EstimateParams params) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& shared = *reinterpret_cast<PooledShared<Traits>*>(raw);
  float* energy = reinterpret_cast<float*>(raw + sizeof(PooledShared<Traits>));
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int mask = blockIdx.y;
  const int heads = params.heads.num_q_heads / params.num_masks;
  const bool several = params.config.share != Share::kHead;
  const float factor = params.sm_scale * kLog2e;
  // Heads of a mask may keep different tokens: each has a grid of its own.
  int scored = 0;  // by any head so far
  bool finite = true;
  for (int h = 0; h < heads; ++h) {
    const PooledHead head(params, mask * heads + h, Traits::kHeadDim, several);
    if (head.scored == 0) continue;
    start_queries<Traits>(params, head, shared);
    start_means<Traits>(head, 0, shared);
    for (int chunk = 0; chunk * kBlock < head.scored; ++chunk) {
      finish_rows();
      float s[kAccumulators];
      multiply_rows<Traits>(s, shared.q, shared.k);
      start_means<Traits>(head, chunk + 1, shared);
      const TileGrid& grid = head.tokens.grid;
      const bool good = sees_chunk(grid, head.tile, chunk * kBlock, head.scored)
                            ? scale_logits(factor, s)
                            : mask_unseen(grid, head.tile, chunk * kBlock, head.scored, several,
                                          factor, s);
      finite = finite && good;
      add_energies(s, chunk, chunk * kBlock >= scored, energy, params.key_tiles, shared);
    }
    __syncthreads();
    scored = max(scored, head.scored);
  }
  if (!finite) atomicOr(params.scratch.every + blockIdx.z * params.num_masks + mask, 1u);

  const float least = static_cast<float>(mask_threshold(params, mask, params.config.alpha)) *
                      settle(scored, energy, shared);
  uint32_t* bits = mask_bits(params, blockIdx.z, mask) +
                   static_cast<int64_t>(blockIdx.x) * params.words;
  for (int word = threadIdx.x / 32; word < params.words; word += kWarps) {
    const int c = word * 32 + static_cast<int>(threadIdx.x % 32);
    const uint32_t strong = __ballot_sync(~0u, c < scored && energy[c] >= least);
    if (threadIdx.x % 32 == 0) bits[word] = strong | forced_word(params, mask, heads, word);
  }
}

}  // namespace

cudaError_t pooled(const EstimateParams& params, Element element, int head_dim,
                   cudaStream_t stream) {
  return dispatch(element, head_dim, [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    using Traits = ProductTraits<T, kHeadDim>;
    return launch(pooled_kernel<Traits>,
                  {.grid = dim3(params.row_tiles, params.num_masks, params.sequences.batch),
                   .threads = Traits::kThreads,
                   .shared_bytes = sizeof(PooledShared<Traits>) +
                                   sizeof(float) * static_cast<size_t>(params.key_tiles)},
                  stream, params);
  });
}

}  // namespace tokensieve::cuda::sm90
