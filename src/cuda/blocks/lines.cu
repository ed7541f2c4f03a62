// kFlex: which vertical and slash tiles a head visits.
#include <math_constants.h>

#include "cuda/blocks/estimate.h"
#include "cuda/blocks/rules.h"
#include "cuda/blocks/search.h"
#include "cuda/blocks/tokens.h"
#include "cuda/device/dispatch.h"
#include "cuda/device/launch.h"
#include "cuda/device/logits.h"
#include "cuda/ptx/barrier.h"
#include "cuda/ptx/math.h"
#include "cuda/select/block_team.h"

namespace tokensieve::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kLinesPerCta = 16384;
using Team = BlockTeam<kThreads>;

__device__ __forceinline__ ProbeLines probe_lines(const EstimateParams& params, int64_t head,
                                                  int64_t keys) {
  const int64_t tile = head * params.key_tiles;
  return {params.scratch.verticals + tile * kBlock, params.scratch.diagonals + tile * 256,
          static_cast<int>(keys)};
}

// ---- how many lines cover gamma

// This CTA's lines of a kind.
struct LineKeys {
  ProbeLines lines;
  bool slashes;
  int begin, end;
  __device__ __forceinline__ uint32_t key(int i) const {
    return begin + i < end ? score_key(lines.line(slashes, begin + i)) : kNoKey;
  }
  __device__ __forceinline__ int quads() const { return (end - begin + 3) / 4; }
  __device__ __forceinline__ KeyQuad quad(int i) const {
    return {{key(4 * i), key(4 * i + 1), key(4 * i + 2), key(4 * i + 3)}};
  }
};

// Grid: clusters of verticals and of slashes, query heads, batch.
__global__ void __launch_bounds__(kThreads, 1)
    count_lines_kernel(const __grid_constant__ EstimateParams params) {
  __shared__ SearchBins bins;
  __shared__ TeamShared<kThreads> team_shared;
  __shared__ RowMass row;
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  Team team(team_shared);
  const bool slashes = blockIdx.x / team.ranks() == 1;
  const HeadTokens tokens = head_tokens(params, blockIdx.z, blockIdx.y);
  if (!flex_runs(params.config, tokens.grid)) return;  // the whole cluster
  const int64_t head = head_index(params, blockIdx.z, blockIdx.y);
  const int lines = static_cast<int>(tokens.grid.keys);
  const int share = (lines + 4 * team.ranks() - 1) / (4 * team.ranks()) * 4;
  const int begin = min(team.rank() * share, lines);
  const LineKeys keys = {probe_lines(params, head, lines), slashes, begin,
                         min(begin + share, lines)};
  const MassAndState total = row_mass(team, row, keys);
  int64_t cover = -1;
  if (total.finite) {
    const double gamma = mask_threshold(params, blockIdx.y, params.config.gamma);
    const uint64_t rest = rest_of(total.mass, gamma);
    int turn = 0;
    cover = lines + 1;
    if (rest > 0) {
      // The smallest lines that reach the rest are one too many: without them gamma is not passed.
      cover = lines - droppable(team, bins, &turn, keys, lines, share_range(lines), rest, false);
    }
  }
  if (team.rank() == 0 && threadIdx.x == 0) {
    params.scratch.covers[2 * head + slashes] = static_cast<int32_t>(cover);
  }
  team.cluster_sync();  // nobody leaves while a neighbour may read its shared memory
}

// ---- the head's kind and its tiles

struct ChooseShared {
  SearchBins bins;
  TeamShared<kThreads> team;
  float parts[kThreads];
  float mean_query[256];
  float reduced[kWarps];
};

// Over the CTA, the same bits in every thread.
template <class Merge>
__device__ __forceinline__ float reduce(float x, float* parts, const Merge& merge) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = merge(x, __shfl_xor_sync(~0u, x, step));
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = parts[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) x = merge(x, parts[i]);
  return x;
}
__device__ __forceinline__ float sum_of(float x, float* parts) {
  return reduce(x, parts, [](float a, float b) { return a + b; });
}
__device__ __forceinline__ float max_of(float x, float* parts) {
  return reduce(x, parts, [](float a, float b) { return fmaxf(a, b); });
}

// Sums of the lines of every block, a warp a block.
__device__ __forceinline__ void pool_lines(const ProbeLines& lines, bool slashes, int tiles,
                                           float* sums) {
  const int lane = threadIdx.x % 32;
  for (int block = threadIdx.x / 32; block < tiles; block += kWarps) {
    const int begin = lines.block_begin(slashes, block);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int line = begin + lane + 32 * i;
      if (line >= 0 && line < lines.keys) sum += lines.line(slashes, line);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0) sums[block] = sum;
  }
}

// Mean of the probe's queries, times the factor of logits in base 2.
template <typename T, int kHeadDim>
__device__ __forceinline__ void mean_query(const EstimateParams& params, const HeadTokens& tokens,
                                           ChooseShared& shared) {
  constexpr int kParts = kThreads / kHeadDim;
  constexpr int kRows = kBlock / kParts;
  const int column = threadIdx.x % kHeadDim;
  const int64_t first = tokens.grid.keys - kBlock + threadIdx.x / kHeadDim * kRows;
  const RowSource q = q_source(params, tokens);
  float sum = 0.0f;
#pragma unroll 8
  for (int row = 0; row < kRows; ++row) {
    sum += static_cast<float>(reinterpret_cast<const T*>(q.at(tokens.q_row(first + row)))[column]);
  }
  shared.parts[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x < kHeadDim) {
    float mean = 0.0f;
#pragma unroll
    for (int part = 0; part < kParts; ++part) mean += shared.parts[part * kHeadDim + column];
    shared.mean_query[column] = mean * (params.sm_scale * kLog2e / kBlock);
  }
  __syncthreads();
}

// Products of the mean query and every tile's mean key, a warp a tile.
template <typename T, int kHeadDim>
__device__ __forceinline__ void predict(const RowSource& means, int tiles,
                                        const ChooseShared& shared, float* logits) {
  const int lane = threadIdx.x % 32;
  for (int tile = threadIdx.x / 32; tile < tiles; tile += kWarps) {
    const T* key = reinterpret_cast<const T*>(means.at(tile));
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kHeadDim / 32; ++i) {
      sum = fmaf(shared.mean_query[lane + 32 * i], static_cast<float>(key[lane + 32 * i]), sum);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0) logits[tile] = sum;
  }
}

// Square root of the Jensen-Shannon divergence between the softmax of `logits` (base 2) and
// `lines`; NaN if a share is 0, infinite if one is NaN or inf.
__device__ __forceinline__ float divergence(const float* logits, const float* lines, int tiles,
                                            float* parts) {
  float top = ptx::negative_infinity();
  for (int i = threadIdx.x; i < tiles; i += kThreads) top = fmaxf(top, logits[i]);
  top = max_of(top, parts);
  float sum = 0.0f;
  for (int i = threadIdx.x; i < tiles; i += kThreads) sum += exp2f(logits[i] - top);
  sum = sum_of(sum, parts);
  if (!(sum < -ptx::negative_infinity())) return -ptx::negative_infinity();
  const auto term = [](float x, float middle) {
    return x > 0.0f ? x * logf(x / middle) : CUDART_NAN_F;
  };
  float divergence = 0.0f;
  for (int i = threadIdx.x; i < tiles; i += kThreads) {
    const float p = exp2f(logits[i] - top) / sum;
    const float q = lines[i];
    const float middle = (p + q) / 2.0f;
    divergence += term(p, middle) + term(q, middle);
  }
  divergence = 0.5f * sum_of(divergence, parts);
  return divergence < 0.0f ? 0.0f : sqrtf(divergence);
}

// Sets bit 0 and the bits of the largest others, `count` together; ties to the lowest.
__device__ __forceinline__ void mark_largest(Team& team, SearchBins& bins, int* turn,
                                             const float* values, int tiles, int count,
                                             uint32_t* bits, int words) {
  const int others = count - 1;
  const SharedKeys keys = {values, 1, tiles};
  const Threshold threshold =
      others > 0 ? find_threshold(team, bins, turn, keys, others, whole_range(), false) : kNothing;
  uint32_t equal_before = 0;
  // Words in turns, so that a warp's lanes are the bits of one.
  for (int first = 0; first < words; first += kWarps) {
    const int word = first + static_cast<int>(threadIdx.x / 32);
    const uint32_t key = keys.key(32 * word + static_cast<int>(threadIdx.x % 32));
    RankedWord ranked = {};
    ranked.above = __ballot_sync(~0u, key > threshold.key && key != kNoKey);
    ranked.equal = __ballot_sync(~0u, key == threshold.key);
    uint32_t all;
    const uint32_t own = threadIdx.x % 32 == 0 ? __popc(ranked.equal) : 0;
    const uint32_t before = team.exclusive_scan(own, &all);
    ranked.equal_before = equal_before + __shfl_sync(~0u, before, 0);
    equal_before += all;
    if (word < words && threadIdx.x % 32 == 0) {
      bits[word] = ranked.kept(threshold.ties) | (word == 0 ? 1u : 0u);
    }
  }
}

// Grid: query heads, batch.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    choose_lines_kernel(const __grid_constant__ EstimateParams params) {
  extern __shared__ __align__(16) uint8_t raw[];
  ChooseShared& shared = *reinterpret_cast<ChooseShared*>(raw);
  float* pooled = reinterpret_cast<float*>(raw + sizeof(ChooseShared));
  float* predicted = pooled + params.key_tiles;
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  Team team(shared.team);
  const HeadTokens tokens = head_tokens(params, blockIdx.y, blockIdx.x);
  const int64_t head = head_index(params, blockIdx.y, blockIdx.x);
  const int32_t* covers = params.scratch.covers + 2 * head;
  const bool runs = flex_runs(params.config, tokens.grid);
  if (!runs || covers[0] < 0 || covers[1] < 0) {
    if (threadIdx.x == 0) params.scratch.kinds[head] = FlexKind::kEveryTile;
    return;
  }
  const int tiles = static_cast<int>(tokens.grid.key_tiles());
  const ProbeLines lines = probe_lines(params, head, tokens.grid.keys);
  pool_lines(lines, false, tiles, pooled);
  mean_query<T, kHeadDim>(params, tokens, shared);
  predict<T, kHeadDim>(key_means(params, tokens, kHeadDim), tiles, shared, predicted);
  __syncthreads();
  const float distance = divergence(predicted, pooled, tiles, shared.reduced);
  const bool aware = distance < params.config.flex_tau;
  if (threadIdx.x == 0) {
    params.scratch.kinds[head] = distance == -ptx::negative_infinity() ? FlexKind::kEveryTile
                                 : aware                               ? FlexKind::kQueryAware
                                                                       : FlexKind::kLines;
  }
  int turn = 0;
#pragma unroll 1
  for (int slashes = 0; slashes < 2; ++slashes) {
    if (slashes) {
      __syncthreads();
      pool_lines(lines, true, tiles, pooled);
      __syncthreads();
    }
    const int64_t count =
        aware ? flex_least(params.config) : flex_tiles(params.config, covers[slashes], tiles);
    mark_largest(team, shared.bins, &turn, pooled, tiles,
                 static_cast<int>(min(count, int64_t{tiles})),
                 params.scratch.lines + (2 * head + slashes) * params.words, params.words);
  }
}

// Grid: words of the mask, query heads, batch.
__global__ void __launch_bounds__(kThreads)
    build_lines_kernel(const __grid_constant__ EstimateParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int at = blockIdx.x * kThreads + threadIdx.x;
  if (at >= params.row_tiles * params.words) return;
  const int t = at / params.words;
  const int word = at % params.words;
  const HeadTokens tokens = head_tokens(params, blockIdx.z, blockIdx.y);
  const int64_t head = head_index(params, blockIdx.z, blockIdx.y);
  uint32_t bits = 0;
  if (t < tokens.grid.row_tiles()) {
    const uint32_t* lines = params.scratch.lines + 2 * head * params.words;
    bits = params.scratch.kinds[head] == FlexKind::kEveryTile
               ? tiles_below(tokens.grid.end(t), word)
               : line_word(tokens.grid, t, lines, lines + params.words, params.words, word);
  }
  mask_bits(params, blockIdx.z, blockIdx.y)[at] = bits;
}

}  // namespace

cudaError_t count_lines(const EstimateParams& params, cudaStream_t stream) {
  LaunchShape shape;
  const int64_t lines = params.sequences.seqlen_kv;
  shape.cluster = cluster_for(lines, kLinesPerCta);
  shape.grid = dim3(2 * shape.cluster, params.heads.num_q_heads, params.sequences.batch);
  shape.threads = kThreads;
  return launch(count_lines_kernel, shape, stream, params);
}

cudaError_t choose_lines(const EstimateParams& params, Element element, int head_dim,
                         cudaStream_t stream) {
  const LaunchShape shape = {
      .grid = dim3(params.heads.num_q_heads, params.sequences.batch),
      .threads = kThreads,
      .shared_bytes = sizeof(ChooseShared) + 8 * static_cast<size_t>(params.key_tiles)};
  return dispatch(element, head_dim, [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    return launch(choose_lines_kernel<T, kHeadDim>, shape, stream, params);
  });
}

cudaError_t build_lines(const EstimateParams& params, cudaStream_t stream) {
  const int64_t words = static_cast<int64_t>(params.row_tiles) * params.words;
  return launch(build_lines_kernel,
                {.grid = dim3(static_cast<unsigned>((words + kThreads - 1) / kThreads),
                              params.heads.num_q_heads, params.sequences.batch),
                 .threads = kThreads},
                stream, params);
}

}  // namespace tokensieve::cuda
