// First kernel of select: average pooling of every head of the layer, means over the heads of a set
// and over all heads, and the sums that normalise them.
//
// A CTA takes a chunk of tokens of all heads, a tile of 128 tokens at a time: warps smooth heads (4
// tokens a thread), then threads average over heads. Arithmetic as core/budget.cc, order included.
#include "cuda/device/launch.h"
#include "cuda/select/scratch.h"
#include "cuda/ptx/barrier.h"

namespace tokensieve::cuda {
namespace {

constexpr int kSmoothThreads = 512;  // half of that where there are CTAs enough

__device__ __forceinline__ int num_warps() { return blockDim.x / 32; }

// x / divisor, correctly rounded (Markstein: the reciprocal is, the remainder is exact).
struct Divider {
  double divisor;
  double reciprocal;
  __device__ __forceinline__ explicit Divider(int by) : divisor(by), reciprocal(1.0 / by) {}
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

// Scores of tokens first - 4 .. first + 7.
struct Scores {
  float4 quads[3];
};
__device__ __forceinline__ Scores load_around(const float* row, int first, int size,
                                              bool aligned) {
  return {load_scores(row, first - 4, size, aligned), load_scores(row, first, size, aligned),
          load_scores(row, first + 4, size, aligned)};
}

// Pooled scores of tokens first..first+3. kHalf: pool_width / 2, then `scores` has all it takes;
// -1: any width.
template <int kHalf, bool kReference>
__device__ __forceinline__ void pool(const float* row, const Scores& scores, int first, int size,
                                     int pool_width, const Divider& divide, float (&out)[4],
                                     bool* all_finite) {
  if constexpr (kHalf >= 0) {
    static_assert(kHalf <= 4);
    const float* x = &scores.quads[0].x;
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

// Pooled tiles in shared memory: the padding lets a warp read 8 tokens of 4 rows at once.
constexpr int kRowStride = kSmoothTile + 8;

__device__ __forceinline__ uint64_t warp_sum(uint64_t x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(~0u, x, lane);
  return x;
}
// Over the warp; the sum only if kSum.
template <bool kSum>
__device__ __forceinline__ RowSummary warp_summary(const RowSummary& own) {
  return {kSum ? warp_sum(own.sum) : 0, __reduce_min_sync(~0u, own.least),
          __reduce_max_sync(~0u, own.most)};
}

// Mean of `count` smoothed rows at one token. kLanes lanes share the sum in double, where its order
// does not matter (24 + 5 bits and 24 octaves fit); in f32 rounding it does, and one lane takes the
// host's.
template <bool kReference, int kLanes>
__device__ __forceinline__ float mean_of(const float* pooled, int count, const Divider& divide) {
  if constexpr (kReference) {
    static_assert(kLanes == 1);
    float sum = 0.0f;
    for (int i = 0; i < count; ++i) sum += pooled[i * kRowStride];
    return to_bf16(sum / static_cast<float>(count));
  } else {
    double sum = 0.0;
#pragma unroll 4
    for (int i = threadIdx.x % 32 / (32 / kLanes); i < count; i += kLanes) {
      sum += pooled[i * kRowStride];
    }
#pragma unroll
    for (int lane = 32 / kLanes; lane < 32; lane *= 2) sum += __shfl_xor_sync(~0u, sum, lane);
    return static_cast<float>(divide(sum));
  }
}

// What a CTA knows about its chunk.
struct Chunk {
  int begin, end;
  int prefix_len;
  bool aligned;  // rows may be read and written 16 bytes at a time
  const float* score;
  float* ranked;
  float* mean;
};

__device__ __forceinline__ Chunk chunk_of(const SelectParams& params,
                                          const SelectScratch& scratch) {
  const int64_t batch = blockIdx.y;
  Chunk chunk;
  const Sequence where = sequence(params.sequences, blockIdx.y);
  chunk.prefix_len = where.seqlen_kv - suffix_of(params.suffix, where);
  chunk.begin = blockIdx.x * scratch.chunk_tokens;
  chunk.end = min(chunk.begin + scratch.chunk_tokens, chunk.prefix_len);
  chunk.score = params.token_score + batch * params.layer_heads * params.prefix_stride;
  chunk.ranked = params.ranked + batch * params.selection.num_sets * params.prefix_stride;
  chunk.mean = params.mean + batch * params.prefix_stride;
  chunk.aligned = params.prefix_stride % 4 == 0 &&
                  ((reinterpret_cast<uintptr_t>(params.token_score) |
                    reinterpret_cast<uintptr_t>(params.ranked)) &
                   15) == 0;
  return chunk;
}

// One warp: a tile of one head, into shared memory and, if the head is set `own_set`, to ranked;
// -1: it is none.
template <int kHalf, bool kReference>
__device__ __forceinline__ void smooth_head(const SelectParams& params, const Chunk& chunk,
                                            const Divider& divide, const Scores& scores, int head,
                                            int first, int own_set, float* pooled,
                                            RowSummary* summary, bool* all_finite) {
  const int lane = threadIdx.x % 32;
  float x[4];
  pool<kHalf, kReference>(chunk.score + head * params.prefix_stride, scores, first,
                          chunk.prefix_len, params.pool_width, divide, x, all_finite);
  const float4 packed = make_float4(x[0], x[1], x[2], x[3]);
  *reinterpret_cast<float4*>(pooled + head * kRowStride + lane * 4) = packed;
  if (own_set < 0) return;
  float* to = chunk.ranked + own_set * params.prefix_stride + first;
  RowSummary part = RowSummary::empty();
  if (chunk.aligned && first + 3 < chunk.prefix_len) *reinterpret_cast<float4*>(to) = packed;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first + i >= chunk.prefix_len) continue;
    if (!(chunk.aligned && first + 3 < chunk.prefix_len)) to[i] = x[i];
    const uint32_t key = score_key(x[i]);
    part.add({kReference ? fixed_point(key) : 0, key, key});
  }
  part = warp_summary<kReference>(part);
  if (lane == 0) summary[own_set].add(part);  // only this warp works on this head
}

// All warps: `rows` means of `count` heads each, from head 0 on. kSum: their sums are needed.
template <bool kReference, int kLanes, bool kSum>
__device__ __forceinline__ void average_rows(const Chunk& chunk, int tile, int rows, int count,
                                             const float* pooled, float* to, int64_t to_stride,
                                             RowSummary* summary) {
  constexpr int kTokens = 32 / kLanes;  // of a warp
  constexpr int kParts = kSmoothTile / kTokens;
  const Divider divide(count);
  for (int unit = threadIdx.x / 32; unit < rows * kParts; unit += num_warps()) {
    const int row = unit / kParts;
    const int offset = unit % kParts * kTokens + threadIdx.x % kTokens;
    const int token = tile + offset;
    const float x =
        mean_of<kReference, kLanes>(pooled + row * count * kRowStride + offset, count, divide);
    RowSummary part = RowSummary::empty();
    if (threadIdx.x % 32 < kTokens && token < chunk.prefix_len) {
      to[row * to_stride + token] = x;
      const uint32_t key = score_key(x);
      part = {kSum ? fixed_point(key) : 0, key, key};
    }
    part = warp_summary<kSum>(part);
    if (threadIdx.x % 32 != 0) continue;
    if (kSum) {
      atomicAdd(reinterpret_cast<unsigned long long*>(&summary[row].sum),
                static_cast<unsigned long long>(part.sum));
    }
    atomicMin(&summary[row].least, part.least);
    atomicMax(&summary[row].most, part.most);
  }
}

// Means over the heads of every shared set and, for the tau rule, over all heads.
template <bool kReference>
__device__ __forceinline__ void average_tile(const SelectParams& params, const Chunk& chunk,
                                             int tile, bool own, const float* pooled,
                                             RowSummary* summary) {
  constexpr int kLanes = kReference ? 1 : 4;
  const int sets = params.selection.num_sets;
  const int heads = params.layer_heads;
  if (!own && params.heads_per_set < heads) {
    average_rows<kReference, 1, false>(chunk, tile, sets, params.heads_per_set,
                                       pooled + params.first_head * kRowStride, chunk.ranked,
                                       params.prefix_stride, summary);
  } else if (!own) {
    average_rows<kReference, kLanes, false>(chunk, tile, 1, heads, pooled, chunk.ranked, 0,
                                            summary);
  }
  if (params.rule.budget == BudgetPolicy::kTau) {
    average_rows<kReference, kLanes, true>(chunk, tile, 1, heads, pooled, chunk.mean, 0,
                                           summary + sets);
  }
}

// Dynamic shared memory: summaries [num_rows], then pooled f32 [layer_heads, kRowStride].
static_assert(kMaxLayerHeads * (kRowStride * sizeof(float) + sizeof(RowSummary)) <= 220 * 1024);
template <int kHalf, bool kReference>
__global__ void __launch_bounds__(kSmoothThreads, 2)
    smooth_kernel(const __grid_constant__ SelectParams params,
                  const __grid_constant__ SelectScratch scratch) {
  extern __shared__ __align__(16) uint8_t raw[];
  RowSummary* summary = reinterpret_cast<RowSummary*>(raw);
  float* pooled = reinterpret_cast<float*>(raw + sizeof(RowSummary) * scratch.num_rows);
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const Chunk chunk = chunk_of(params, scratch);
  const bool own = own_sets(params);
  const Divider divide(params.pool_width);
  for (int i = threadIdx.x; i < scratch.num_rows; i += blockDim.x) {
    summary[i] = RowSummary::empty();
  }
  __syncthreads();

  bool all_finite = true;
  for (int tile = chunk.begin; tile < chunk.end; tile += kSmoothTile) {
    const int first = tile + threadIdx.x % 32 * 4;
    Scores next = {};
    const auto prefetch = [&](int head) {
      if (kHalf >= 0 && head < params.layer_heads) {
        next = load_around(chunk.score + head * params.prefix_stride, first, chunk.prefix_len,
                           chunk.aligned);
      }
    };
    prefetch(threadIdx.x / 32);
    for (int head = threadIdx.x / 32; head < params.layer_heads; head += num_warps()) {
      const Scores scores = next;
      prefetch(head + num_warps());
      const int set = head - params.first_head;
      const bool has_set = own && set >= 0 && set < params.selection.num_sets;
      smooth_head<kHalf, kReference>(params, chunk, divide, scores, head, first,
                                     has_set ? set : -1, pooled, summary, &all_finite);
    }
    __syncthreads();
    average_tile<kReference>(params, chunk, tile, own, pooled, summary);
    __syncthreads();
  }
  const bool bad = __syncthreads_or(!all_finite);
  const int64_t first = static_cast<int64_t>(blockIdx.y) * scratch.num_rows;
  for (int i = threadIdx.x; i < scratch.num_rows; i += blockDim.x) {
    scratch.summaries[(first + i) * scratch.num_chunks + blockIdx.x] = summary[i];
  }
  if (threadIdx.x == 0) scratch.nonfinite[blockIdx.y * scratch.num_chunks + blockIdx.x] = bad;
}

template <int kHalf>
cudaError_t launch_smooth(const SelectParams& params, const SelectScratch& scratch,
                          cudaStream_t stream) {
  LaunchShape shape;
  shape.grid = dim3(scratch.num_chunks, params.sequences.batch);
  const bool many = static_cast<int64_t>(scratch.num_chunks) * params.sequences.batch > 256;
  shape.threads = many ? kSmoothThreads / 2 : kSmoothThreads;
  shape.shared_bytes = sizeof(RowSummary) * scratch.num_rows +
                       sizeof(float) * kRowStride * params.layer_heads;
  return params.arithmetic == Arithmetic::kReferenceRounding
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
