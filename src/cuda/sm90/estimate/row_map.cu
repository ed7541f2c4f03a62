// kFlex, query-aware heads: the softmax of mean queries against mean keys, a row a row tile.
#include "cuda/blocks/rules.h"
#include "cuda/device/dispatch.h"
#include "cuda/device/launch.h"
#include "cuda/sm90/estimate/estimate.h"
#include "cuda/sm90/estimate/product.h"
#include "cuda/sm90/score/stats.h"

namespace tokensieve::cuda::sm90 {
namespace {

template <class Traits>
struct MapShared {
  alignas(1024) typename Traits::Element q[Traits::kElements];
  alignas(1024) typename Traits::Element k[Traits::kElements];
};

template <class Traits>
__device__ __forceinline__ void start_mean_keys(const RowSource& means, int first, int tiles,
                                                MapShared<Traits>& shared) {
  const int rows = tiles - first;
  if (rows <= 0) return;
  const char* from = means.at(first);
  start_rows<Traits>(shared.k, from, [&](int row) {
    return row < rows ? from + row * means.stride : nullptr;
  });
}

// Row tiles `t` and t + 8 of a thread, and the key tiles that they see.
struct MapRows {
  int end[2];

  __device__ __forceinline__ MapRows(const TileGrid& grid, int64_t t) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      end[r] = t + 8 * r < grid.row_tiles() ? static_cast<int>(grid.end(t + 8 * r)) : 0;
    }
  }
  __device__ __forceinline__ void mask(int first, float (&s)[kAccumulators]) const {
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) {
      const int c = first + own_column() + column_of(i);
      if (c >= end[i >> 1 & 1]) s[i] = ptx::negative_infinity();
    }
  }
};

// What turns a row's logits into shares.
struct RowShares {
  float top[2];    // base 2
  float share[2];  // 1 / sum; 0 for a row that is none
  bool finite = true;

  __device__ __forceinline__ RowShares(const MapRows& seen, const RowStats& stats, float factor) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float own = stats.max[r] == ptx::negative_infinity() ? ptx::negative_infinity()
                                                                 : stats.max[r] * factor;
      top[r] = fmaxf(own, __shfl_xor_sync(~0u, own, 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 2));
      if (top[r] == ptx::negative_infinity()) top[r] = 0.0f;
      float sum = stats.sum[r] * ptx::exp2(own - top[r]);
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      share[r] = seen.end[r] > 0 ? 1.0f / sum : 0.0f;
      finite = finite &&
               (seen.end[r] == 0 || (sum > 0.0f && sum < -ptx::negative_infinity()));
    }
  }
};

// Writes 128 columns from `first` on of a map's rows, `width` apart. `to`: the thread's first.
__device__ __forceinline__ void write_shares(const RowShares& shares, int64_t rows, int first,
                                             int width, float factor,
                                             const float (&s)[kAccumulators], float* to) {
#pragma unroll
  for (int i = 0; i < kAccumulators; i += 2) {
    const int r = i >> 1 & 1;
    const int c = first + column_of(i);
    if (own_row() + 8 * r >= rows || c + own_column() >= width) continue;
    *reinterpret_cast<float2*>(to + 8 * r * width + c) =
        make_float2(ptx::exp2(fmaf(s[i], factor, -shares.top[r])) * shares.share[r],
                    ptx::exp2(fmaf(s[i + 1], factor, -shares.top[r])) * shares.share[r]);
  }
}

// Grid: blocks of 128 row tiles, map heads, batch.
template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kCtas)
    row_map_kernel(const __grid_constant__ EstimateParams params, int first_head) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& shared = *reinterpret_cast<MapShared<Traits>*>(raw);
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int batch = blockIdx.z;
  const int head = first_head + static_cast<int>(blockIdx.y);
  if (head >= params.heads.num_q_heads) return;
  const int64_t index = head_index(params, batch, head);
  if (params.scratch.kinds[index] != FlexKind::kQueryAware) return;
  const HeadTokens tokens = head_tokens(params, batch, head);
  const int tiles = static_cast<int>(tokens.grid.key_tiles());
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kBlock;
  const int64_t rows = tokens.grid.row_tiles() - first_row;
  if (rows <= 0) return;
  const char* q = static_cast<const char*>(params.scratch.row_means) +
                  (index * params.row_tiles + first_row) * Traits::kHeadDim * 2;
  const RowSource means = key_means(params, tokens, Traits::kHeadDim);
  start_rows<Traits>(shared.q, q, [&](int row) {
    return row < rows ? q + row * Traits::kHeadDim * 2 : nullptr;
  });
  start_mean_keys<Traits>(means, 0, tiles, shared);

  const float factor = params.sm_scale * kLog2e;
  const MapRows seen(tokens.grid, first_row + own_row());
  const int width = 32 * params.words;
  float* to = params.scratch.map +
              ((static_cast<int64_t>(batch) * params.map_heads + blockIdx.y) * params.row_tiles +
               first_row + own_row()) *
                  width +
              own_column();
  RowStats stats = RowStats::none();
  for (int first = 0; first < tiles; first += kBlock) {
    float s[kAccumulators];
    finish_rows();
    multiply_rows<Traits>(s, shared.q, shared.k);
    // Behind the last tile comes the first one again.
    start_mean_keys<Traits>(means, first + kBlock < tiles ? first + kBlock : 0, tiles, shared);
    seen.mask(first, s);
    stats.add(s, factor);
  }
  const RowShares shares(seen, stats, factor);
  if (!shares.finite) atomicOr(params.scratch.every + index, 1u);
  for (int first = 0; first < width; first += kBlock) {
    float s[kAccumulators];
    finish_rows();
    multiply_rows<Traits>(s, shared.q, shared.k);
    start_mean_keys<Traits>(means, first + kBlock, tiles, shared);
    seen.mask(first, s);
    write_shares(shares, rows, first, width, factor, s, to);
  }
  ptx::copy_async_wait_all();
}

}  // namespace

cudaError_t row_map(const EstimateParams& params, int first, Element element, int head_dim,
                    cudaStream_t stream) {
  return dispatch(element, head_dim, [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    using Traits = ProductTraits<T, kHeadDim>;
    return launch(row_map_kernel<Traits>,
                  {.grid = dim3((params.row_tiles + kBlock - 1) / kBlock, params.map_heads,
                                params.sequences.batch),
                   .threads = Traits::kThreads,
                   .shared_bytes = sizeof(MapShared<Traits>)},
                  stream, params, first);
  });
}

}  // namespace tokensieve::cuda::sm90
