// First kernel of select: average pooling of every head, means over the heads of a set and over
// all heads, and the sums that normalise them.
//
// A CTA takes a chunk of tokens of all heads, a tile of 128 tokens at a time: warps smooth heads (4
// tokens a thread), then threads average over heads. Arithmetic as core/budget.cc, order included.
#include "cuda/common/launch.h"
#include "cuda/stages/select.h"
#include "cuda/ptx/barrier.h"

namespace tokensieve::cuda {
namespace {

constexpr int kSmoothThreads = 512;
constexpr int kSmoothWarps = kSmoothThreads / 32;

// x / divisor, correctly rounded (Markstein: the reciprocal is, the remainder is exact).
struct Divider {
  double divisor;
  double reciprocal;
  __device__ explicit Divider(int by) : divisor(by), reciprocal(1.0 / by) {}
  __device__ __forceinline__ double operator()(double x) const {
    const double quotient = x * reciprocal;
    return fma(fma(-quotient, divisor, x), reciprocal, quotient);
  }
};

// Four scores from token `first` on; those outside [0, size) count as 0.
__device__ __forceinline__ float4 load_scores(const float* row, int first, int size,
                                              bool aligned) {
  if (aligned && first >= 0 && first + 3 < size) {
    return *reinterpret_cast<const float4*>(row + first);
  }
  float4 x = {0.0f, 0.0f, 0.0f, 0.0f};
  if (first >= 0 && first < size) x.x = row[first];
  if (first >= -1 && first + 1 < size) x.y = row[first + 1];
  if (first >= -2 && first + 2 < size) x.z = row[first + 2];
  if (first >= -3 && first + 3 < size) x.w = row[first + 3];
  return x;
}

__device__ __forceinline__ bool finite(float x) {
  return (__float_as_uint(x) & 0x7fffffffu) < 0x7f800000u;
}

// Pooled scores of tokens first..first+3. kHalf: pool_width / 2, or -1 for any width.
template <int kHalf, bool kReference>
__device__ __forceinline__ void pool(const float* row, int first, int size, bool aligned,
                                     int pool_width, const Divider& divide, float (&out)[4],
                                     bool* all_finite) {
  if constexpr (kHalf >= 0) {
    static_assert(kHalf <= 4);
    const float4 loads[3] = {load_scores(row, first - 4, size, aligned),
                             load_scores(row, first, size, aligned),
                             load_scores(row, first + 4, size, aligned)};
    const float* x = &loads[0].x;
#pragma unroll
    for (int i = 4; i < 8; ++i) *all_finite = *all_finite && finite(x[i]);
    if constexpr (kReference) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum = 0.0f;
#pragma unroll
        for (int j = -kHalf; j <= kHalf; ++j) sum += to_bf16(x[4 + i + j]);
        out[i] = to_bf16(sum / static_cast<float>(pool_width));
      }
    } else {
      double wide[4 + 2 * kHalf];
#pragma unroll
      for (int i = 0; i < 4 + 2 * kHalf; ++i) wide[i] = x[4 - kHalf + i];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        double sum = 0.0;
#pragma unroll
        for (int j = 0; j <= 2 * kHalf; ++j) sum += wide[i + j];
        out[i] = static_cast<float>(divide(sum));
      }
    }
  } else {
    for (int i = 0; i < 4; ++i) {
      const int token = first + i;
      const int begin = max(0, token - pool_width / 2);
      const int end = min(size, token + pool_width / 2 + 1);
      if (token < size) *all_finite = *all_finite && finite(row[token]);
      float rounded = 0.0f;
      double sum = 0.0;
      for (int j = begin; j < end; ++j) {
        if (kReference) {
          rounded += to_bf16(row[j]);
        } else {
          sum += row[j];
        }
      }
      out[i] = kReference ? to_bf16(rounded / static_cast<float>(pool_width))
                          : static_cast<float>(divide(sum));
    }
  }
}

__device__ __forceinline__ uint64_t warp_sum(uint64_t x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(~0u, x, lane);
  return x;
}

// Mean of `count` smoothed rows of a tile, one token.
template <bool kReference>
__device__ __forceinline__ float mean_of(const float* pooled, int count) {
  if constexpr (kReference) {
    float sum = 0.0f;
    for (int i = 0; i < count; ++i) sum += pooled[i * kSmoothTile];
    return to_bf16(sum / static_cast<float>(count));
  } else {
    double sum = 0.0;
#pragma unroll 8
    for (int i = 0; i < count; ++i) sum += pooled[i * kSmoothTile];
    return static_cast<float>(sum / count);
  }
}

// Dynamic shared memory: sums u64 [num_sums], then pooled f32 [num_q_heads, kSmoothTile].
template <int kHalf, bool kReference>
__global__ void __launch_bounds__(kSmoothThreads, 2)
    smooth_kernel(const __grid_constant__ SelectParams params,
                  const __grid_constant__ SelectScratch scratch) {
  extern __shared__ __align__(16) uint64_t row_sums[];
  float* pooled = reinterpret_cast<float*>(row_sums + (scratch.num_sums + 1) / 2 * 2);
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int batch = blockIdx.y;
  const int heads = params.heads.num_q_heads;
  const int sets = params.selection.num_sets;
  const int prefix_len = sequence(params.sequences, batch).seqlen_kv - params.suffix;
  const int begin = blockIdx.x * scratch.chunk_tokens;
  const int end = min(begin + scratch.chunk_tokens, prefix_len);
  const bool own = own_sets(params);
  const bool tau = params.budget == kBudgetTau;
  const float* score =
      params.token_score + static_cast<int64_t>(batch) * heads * params.prefix_stride;
  float* ranked = params.ranked + static_cast<int64_t>(batch) * sets * params.prefix_stride;
  float* mean = params.mean + static_cast<int64_t>(batch) * params.prefix_stride;
  const bool aligned = params.prefix_stride % 4 == 0 &&
                       (reinterpret_cast<uintptr_t>(params.token_score) & 15) == 0 &&
                       (reinterpret_cast<uintptr_t>(params.ranked) & 15) == 0;
  const Divider divide(params.pool_width);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  for (int i = threadIdx.x; i < scratch.num_sums; i += kSmoothThreads) row_sums[i] = 0;
  __syncthreads();

  bool all_finite = true;
  for (int tile = begin; tile < end; tile += kSmoothTile) {
    const int first = tile + lane * 4;
    for (int head = warp; head < heads; head += kSmoothWarps) {
      float x[4];
      pool<kHalf, kReference>(score + head * params.prefix_stride, first, prefix_len, aligned,
                              params.pool_width, divide, x, &all_finite);
      *reinterpret_cast<float4*>(pooled + head * kSmoothTile + lane * 4) =
          make_float4(x[0], x[1], x[2], x[3]);
      if (!own) continue;
      float* to = ranked + head * params.prefix_stride + first;
      if (aligned && first + 3 < prefix_len) {
        *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
      } else {
        for (int i = 0; i < 4; ++i) {
          if (first + i < prefix_len) to[i] = x[i];
        }
      }
      if (!kReference) continue;
      uint64_t sum = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (first + i < prefix_len) sum += fixed_point(score_key(x[i]));
      }
      sum = warp_sum(sum);
      if (lane == 0) row_sums[head] += sum;  // only this warp works on this head
    }
    __syncthreads();
    // One warp: 32 tokens of one row.
    const int rows = (own ? 0 : sets) + (tau ? 1 : 0);
    for (int i = warp; i < rows * (kSmoothTile / 32); i += kSmoothWarps) {
      const int row = i / (kSmoothTile / 32);
      const int offset = i % (kSmoothTile / 32) * 32 + lane;
      const int token = tile + offset;
      const bool layer = own || row == sets;
      const int count = layer ? heads : heads / sets;
      const float x =
          mean_of<kReference>(pooled + (layer ? 0 : row * count) * kSmoothTile + offset, count);
      if (token < prefix_len) (layer ? mean : ranked + row * params.prefix_stride)[token] = x;
      if (!layer) continue;
      const uint64_t sum = warp_sum(token < prefix_len ? fixed_point(score_key(x)) : 0);
      if (lane == 0) {
        atomicAdd(reinterpret_cast<unsigned long long*>(&row_sums[sets]),
                  static_cast<unsigned long long>(sum));
      }
    }
    __syncthreads();
  }
  const bool bad = __syncthreads_or(!all_finite);
  for (int i = threadIdx.x; i < scratch.num_sums; i += kSmoothThreads) {
    scratch.sums[(static_cast<int64_t>(batch) * scratch.num_sums + i) * scratch.num_chunks +
                 blockIdx.x] = row_sums[i];
  }
  if (threadIdx.x == 0) scratch.nonfinite[batch * scratch.num_chunks + blockIdx.x] = bad;
}

template <int kHalf>
cudaError_t launch_smooth(const SelectParams& params, const SelectScratch& scratch,
                          cudaStream_t stream) {
  LaunchShape shape;
  shape.grid = dim3(scratch.num_chunks, params.sequences.batch);
  shape.threads = kSmoothThreads;
  shape.shared_bytes = (scratch.num_sums + 1) / 2 * 16 +
                       sizeof(float) * kSmoothTile * params.heads.num_q_heads;
  return params.arithmetic == kArithmeticReference
             ? launch(smooth_kernel<kHalf, true>, shape, stream, params, scratch)
             : launch(smooth_kernel<kHalf, false>, shape, stream, params, scratch);
}

}  // namespace

cudaError_t smooth(const SelectParams& params, const SelectScratch& scratch,
                   cudaStream_t stream) {
  switch (params.pool_width) {
    case 1:
      return launch_smooth<0>(params, scratch, stream);
    case 5:
      return launch_smooth<2>(params, scratch, stream);
    case 7:
      return launch_smooth<3>(params, scratch, stream);
  }
  return launch_smooth<-1>(params, scratch, stream);
}

}  // namespace tokensieve::cuda
