// kFlex: attention of the last 128 rows, in two passes over the keys: maximum and sum of every row;
// then its means over columns and its sums along distances.
#include "cuda/blocks/rules.h"
#include "cuda/device/dispatch.h"
#include "cuda/device/launch.h"
#include "cuda/sm90/estimate/estimate.h"
#include "cuda/sm90/estimate/product.h"
#include "cuda/sm90/score/stats.h"

namespace tokensieve::cuda::sm90 {
namespace {

// Floats of a row of probabilities: pairs of eight rows fall on different banks.
constexpr int kRowStride = 136;

template <class Traits>
struct StatsShared {
  alignas(1024) typename Traits::Element q[Traits::kElements];
  alignas(1024) typename Traits::Element k[Traits::kElements];
};
template <class Traits>
struct SumsShared : StatsShared<Traits> {
  float weight[kBlock];
  alignas(16) float share[64 * kRowStride];  // of a warpgroup's rows
};

// What a CTA works on: key tiles [begin, end) of a head.
struct ProbeWork {
  HeadTokens tokens;
  RowSource keys;
  int64_t head;  // [batch, heads]
  int first;     // position of probe row 0
  int begin, end;
};

// Grid: key ranges, query heads, batch.
__device__ __forceinline__ ProbeWork probe_work(const EstimateParams& params) {
  ProbeWork work;
  work.tokens = head_tokens(params, blockIdx.z, blockIdx.y);
  work.keys = cuda::key_source(params, work.tokens);
  work.head = static_cast<int64_t>(blockIdx.z) * params.heads.num_q_heads + blockIdx.y;
  work.first = static_cast<int>(work.tokens.grid.keys) - kBlock;
  const int64_t tiles = work.tokens.grid.key_tiles();
  work.begin = static_cast<int>(tiles * blockIdx.x / params.splits);
  work.end = static_cast<int>(tiles * (blockIdx.x + 1) / params.splits);
  return work;
}

template <class Traits, class Shared>
__device__ __forceinline__ void start_keys(const ProbeWork& work, int tile, Shared& shared) {
  if (tile >= work.end) return;
  const int first = tile * kBlock;
  const int rows = static_cast<int>(work.tokens.grid.keys) - first;
  const char* from = work.keys.at(first);
  start_rows<Traits>(shared.k, from, [&](int row) {
    return row < rows ? from + row * work.keys.stride : nullptr;
  });
}

// Queries, and the first keys.
template <class Traits, class Shared>
__device__ __forceinline__ void start_probe(const EstimateParams& params, const ProbeWork& work,
                                            Shared& shared) {
  const RowSource q = q_source(params, work.tokens);
  start_rows<Traits>(shared.q, q.first,
                     [&](int row) { return q.at(work.tokens.q_row(work.first + row)); });
  start_keys<Traits>(work, work.begin, shared);
}

// Logits of a tile before their factor; starts the next tile's copies.
template <class Traits, class Shared>
__device__ __forceinline__ void probe_tile(const ProbeWork& work, int tile, Shared& shared,
                                           float (&s)[kAccumulators]) {
  finish_rows();
  multiply_rows<Traits>(s, shared.q, shared.k);
  start_keys<Traits>(work, tile + 1, shared);
  const int first_key = tile * kBlock;
  if (first_key + kBlock > work.first) mask_window(s, work.first + own_row() - first_key);
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kCtas)
    probe_stats(const __grid_constant__ EstimateParams params) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& shared = *reinterpret_cast<StatsShared<Traits>*>(raw);
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const ProbeWork work = probe_work(params);
  if (!flex_runs(params.config, work.tokens.grid)) return;
  start_probe<Traits>(params, work, shared);
  const float factor = params.sm_scale * kLog2e;
  RowStats stats = RowStats::none();
  for (int tile = work.begin; tile < work.end; ++tile) {
    float s[kAccumulators];
    probe_tile<Traits>(work, tile, shared, s);
    stats.add(s, factor);
  }
  ptx::copy_async_wait_all();
  float2* to = params.scratch.stats + (work.head * params.splits + blockIdx.x) * kBlock;
  store_stats(stats, 0, factor, to + own_row());
  store_stats(stats, 1, factor, to + own_row() + 8);
}

// log2 of a row's softmax sum times the number of rows.
__device__ __forceinline__ float probe_weight(const EstimateParams& params, int64_t head, int row) {
  const float2* stats = params.scratch.stats + head * params.splits * kBlock + row;
  float top = ptx::negative_infinity();
  for (int i = 0; i < params.splits; ++i) top = fmaxf(top, stats[i * kBlock].x);
  float sum = 0.0f;
  for (int i = 0; i < params.splits; ++i) {
    const float2 part = stats[i * kBlock];
    sum += part.y * ptx::exp2(part.x - top);
  }
  return top + log2f(sum) + 7.0f;
}

// Adds what 64 rows hold of this thread's column and diagonal.
__device__ __forceinline__ void add_lines(const float* share, int first_row, float* column,
                                          float* diagonal) {
  const int at = threadIdx.x;
  if (at < kBlock) {
    float sum = 0.0f;
#pragma unroll 8
    for (int i = 0; i < 64; ++i) sum += share[i * kRowStride + at];
    *column += sum;
  }
  const int begin = max(first_row, at - 127);
  const int end = min(first_row + 64, at + 1);
  float sum = 0.0f;
#pragma unroll 4
  for (int i = begin; i < end; ++i) sum += share[(i - first_row) * kRowStride + i + 127 - at];
  *diagonal += sum;
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kCtas)
    probe_sums(const __grid_constant__ EstimateParams params) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& shared = *reinterpret_cast<SumsShared<Traits>*>(raw);
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const ProbeWork work = probe_work(params);
  if (!flex_runs(params.config, work.tokens.grid)) return;
  start_probe<Traits>(params, work, shared);
  if (threadIdx.x < kBlock) {
    shared.weight[threadIdx.x] = probe_weight(params, work.head, threadIdx.x);
  }
  __syncthreads();
  const float weight[2] = {shared.weight[own_row()], shared.weight[own_row() + 8]};
  const float factor = params.sm_scale * kLog2e;
  const int keys = static_cast<int>(work.tokens.grid.keys);
  for (int tile = work.begin; tile < work.end; ++tile) {
    float s[kAccumulators];
    probe_tile<Traits>(work, tile, shared, s);
    float column = 0.0f, diagonal = 0.0f;
#pragma unroll 1
    for (int group = 0; group < 2; ++group) {
      if (threadIdx.x / 128 == group) {
        float* own = shared.share + (own_row() - 64 * group) * kRowStride + own_column();
#pragma unroll
        for (int i = 0; i < kAccumulators; i += 2) {
          const float offset = weight[i >> 1 & 1];
          *reinterpret_cast<float2*>(own + (i & 2 ? 8 * kRowStride : 0) + column_of(i)) =
              make_float2(ptx::exp2(fmaf(s[i], factor, -offset)),
                          ptx::exp2(fmaf(s[i + 1], factor, -offset)));
        }
      }
      __syncthreads();
      add_lines(shared.share, 64 * group, &column, &diagonal);
      __syncthreads();
    }
    const int64_t at = work.head * params.key_tiles + tile;
    const int key = tile * kBlock + static_cast<int>(threadIdx.x);
    if (threadIdx.x < kBlock && key < keys) {
      params.scratch.verticals[at * kBlock + threadIdx.x] = column;
    }
    params.scratch.diagonals[at * 256 + threadIdx.x] = diagonal;
  }
  ptx::copy_async_wait_all();
}

template <class Traits>
cudaError_t launch_probe(const EstimateParams& params, cudaStream_t stream) {
  LaunchShape shape;
  shape.grid = dim3(params.splits, params.heads.num_q_heads, params.sequences.batch);
  shape.threads = Traits::kThreads;
  shape.shared_bytes = sizeof(StatsShared<Traits>);
  const cudaError_t error = launch(probe_stats<Traits>, shape, stream, params);
  if (error != cudaSuccess) return error;
  shape.shared_bytes = sizeof(SumsShared<Traits>);
  return launch(probe_sums<Traits>, shape, stream, params);
}

}  // namespace

cudaError_t probe(const EstimateParams& params, Element element, int head_dim,
                  cudaStream_t stream) {
  return dispatch(element, head_dim, [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    return launch_probe<ProductTraits<T, kHeadDim>>(params, stream);
  });
}

}  // namespace tokensieve::cuda::sm90
