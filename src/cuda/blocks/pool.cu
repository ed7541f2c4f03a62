// Means of the keys of every tile and, for query-aware heads, of the queries of every row tile.
#include "cuda/blocks/estimate.h"
#include "cuda/blocks/rules.h"
#include "cuda/blocks/tokens.h"
#include "cuda/device/dispatch.h"
#include "cuda/device/launch.h"
#include "cuda/ptx/barrier.h"
#include "cuda/ptx/math.h"

namespace tokensieve::cuda {
namespace {

constexpr int kPoolThreads = 256;
constexpr int kColumns = 8;  // of a 16-byte chunk

// The mean of `rows` rows, summed in a fixed order. `at`: address of a row.
template <typename T, int kHeadDim, class Address>
__device__ __forceinline__ void write_mean(int rows, const Address& at, char* to) {
  constexpr int kChunks = kHeadDim / kColumns;
  constexpr int kParts = kPoolThreads / kChunks;  // rows are dealt to them
  __shared__ float parts[kParts][kHeadDim];
  const int chunk = threadIdx.x % kChunks;
  const int part = threadIdx.x / kChunks;
  float sum[kColumns] = {};
#pragma unroll 4
  for (int row = part; row < rows; row += kParts) {
    const uint4 x = *reinterpret_cast<const uint4*>(at(row) + chunk * kChunkBytes);
    const uint32_t pairs[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = ptx::unpack<T>(pairs[i]);
      sum[2 * i] += pair.x;
      sum[2 * i + 1] += pair.y;
    }
  }
#pragma unroll
  for (int i = 0; i < kColumns; ++i) parts[part][chunk * kColumns + i] = sum[i];
  __syncthreads();
  if (threadIdx.x >= kHeadDim / 2) return;
  float2 mean = {0.0f, 0.0f};
  const int column = 2 * threadIdx.x;
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    mean.x += parts[i][column];
    mean.y += parts[i][column + 1];
  }
  const float size = static_cast<float>(rows);
  reinterpret_cast<uint32_t*>(to)[threadIdx.x] = ptx::pack<T>(mean.x / size, mean.y / size);
}

// Grid: key tiles, mean heads, batch.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kPoolThreads)
    pool_keys_kernel(const __grid_constant__ EstimateParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int batch = blockIdx.z;
  const int head = blockIdx.y;
  // Any query head of the sequence knows its length and whether it is compact.
  const HeadTokens tokens = head_tokens(params, batch, 0);
  const bool compact = tokens.indices != nullptr;
  if (head >= (compact ? params.compact_heads : params.heads.num_kv_heads)) return;
  const int first = blockIdx.x * kBlock;
  const int rows = min(kBlock, static_cast<int>(tokens.grid.keys) - first);
  if (rows <= 0) return;
  const RowSource keys = compact ? row_source(params.compact_k, batch, head, first)
                                 : row_source(params.k, tokens.where.axis, head,
                                              tokens.where.kv_row + first);
  const int64_t mean =
      (static_cast<int64_t>(batch) * params.mean_heads + head) * params.key_tiles + blockIdx.x;
  write_mean<T, kHeadDim>(rows, [&](int row) { return keys.at(row); },
                          static_cast<char*>(params.scratch.key_means) + mean * kHeadDim * 2);
}

// Grid: row tiles, query heads, batch.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kPoolThreads)
    pool_rows_kernel(const __grid_constant__ EstimateParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int64_t head =
      static_cast<int64_t>(blockIdx.z) * params.heads.num_q_heads + blockIdx.y;
  if (params.scratch.kinds[head] != FlexKind::kQueryAware) return;
  const HeadTokens tokens = head_tokens(params, blockIdx.z, blockIdx.y);
  const int64_t tile = blockIdx.x;
  if (tile >= tokens.grid.row_tiles()) return;
  const int64_t first = tokens.grid.row_begin(tile);
  const RowSource q = q_source(params, tokens);
  write_mean<T, kHeadDim>(
      static_cast<int>(tokens.grid.row_end(tile) - first),
      [&](int row) { return q.at(tokens.q_row(first + row)); },
      static_cast<char*>(params.scratch.row_means) +
          (head * params.row_tiles + tile) * kHeadDim * 2);
}

}  // namespace

cudaError_t pool_keys(const EstimateParams& params, Element element, int head_dim,
                      cudaStream_t stream) {
  return dispatch(element, head_dim, [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    return launch(pool_keys_kernel<T, kHeadDim>,
                  {.grid = dim3(params.key_tiles, params.mean_heads, params.sequences.batch),
                   .threads = kPoolThreads},
                  stream, params);
  });
}

cudaError_t pool_rows(const EstimateParams& params, Element element, int head_dim,
                      cudaStream_t stream) {
  return dispatch(element, head_dim, [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    return launch(pool_rows_kernel<T, kHeadDim>,
                  {.grid = dim3(params.row_tiles, params.heads.num_q_heads,
                                params.sequences.batch),
                   .threads = kPoolThreads},
                  stream, params);
  });
}

}  // namespace tokensieve::cuda
