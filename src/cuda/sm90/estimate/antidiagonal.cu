// kAntidiagonal: groups of `stride` queries against groups of `stride` keys, by the sum of their
// products along an antidiagonal: a product of rows of stride * head_dim elements.
//
// A CTA takes 128 row groups of a head, that is `stride` row tiles, against all keys in chunks of
// 256 groups. Of a row group it keeps the sum over each key tile, relative to the maximum so far,
// in scratch of its own; when all chunks are done it normalises them and chooses the tiles.
#include "cuda/blocks/fewest.h"
#include "cuda/blocks/rules.h"
#include "cuda/device/dispatch.h"
#include "cuda/device/launch.h"
#include "cuda/device/logits.h"
#include "cuda/blocks/tokens.h"
#include "cuda/ptx/copy.h"
#include "cuda/sm90/estimate/estimate.h"
#include "cuda/sm90/ptx/mbarrier.h"
#include "cuda/sm90/ptx/wgmma.h"
#include "cuda/sm90/swizzle.h"

namespace tokensieve::cuda::sm90 {
namespace {

constexpr int kThreads = 256;  // two warpgroups of 64 row groups
constexpr int kWarps = kThreads / 32;
constexpr int kRowGroups = 128;
constexpr int kKeyGroups = 256;  // of a chunk
constexpr int kStages = 4;
constexpr int kAhead = kStages - 2;  // steps that are loaded before their turn
constexpr int kPanel = 64;           // columns of a step
constexpr int kPanelBytes = kPanel * 2;
constexpr int kSums = kKeyGroups / 2;  // accumulators of a thread

template <typename T, int kStride_>
struct GroupTraits {
  using Element = T;
  static constexpr int kStride = kStride_;
  static constexpr int kTileGroups = kBlock / kStride;           // of a key or row tile
  static constexpr int kChunkTiles = kKeyGroups / kTileGroups;
};

template <class Traits>
struct GroupShared {
  using Element = typename Traits::Element;
  alignas(1024) Element q[kStages][kRowGroups * kPanel];
  alignas(1024) Element k[kStages][kKeyGroups * kPanel];
  int32_t q_rows[kRowGroups * Traits::kStride];  // of the groups' queries, -1: none
  float top[kRowGroups];   // base 2
  float share[kRowGroups];  // 1 / sum
};

// 128 row groups of a head, and this CTA's scratch.
struct GroupWork {
  HeadTokens tokens;
  RowSource q, keys;
  int64_t first_group;
  int groups;   // that there are
  int chunks;   // of keys that they see
  int panels;   // of head_dim
  float* sums;  // [128, key_tiles]
  float* tops;  // [128, top_stride]
  int key_tiles, top_stride;
};

template <class Traits>
__device__ __forceinline__ GroupWork group_work(const EstimateParams& params, int batch, int head,
                                                int64_t block, int head_dim) {
  GroupWork work;
  work.tokens = head_tokens(params, batch, head);
  work.q = q_source(params, work.tokens);
  work.keys = cuda::key_source(params, work.tokens);
  const TileGrid& grid = work.tokens.grid;
  work.first_group = block * kRowGroups;
  const int64_t left = row_groups(grid, Traits::kStride) - work.first_group;
  work.groups = static_cast<int>(max(int64_t{0}, min(int64_t{kRowGroups}, left)));
  const int64_t seen =
      work.groups > 0
          ? seen_groups(grid, work.first_group + work.groups - 1, Traits::kStride)
          : 0;
  work.chunks = static_cast<int>((seen + kKeyGroups - 1) / kKeyGroups);
  work.panels = head_dim / kPanel;
  work.key_tiles = params.key_tiles;
  work.top_stride = top_stride(params.key_tiles);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowGroups;
  work.sums = params.scratch.sums + row * work.key_tiles;
  work.tops = params.scratch.tops + row * work.top_stride;
  return work;
}

template <class Traits>
__device__ __forceinline__ void find_queries(const GroupWork& work, GroupShared<Traits>& shared) {
  const TileGrid& grid = work.tokens.grid;
  const int64_t first = grid.first_row + work.first_group * Traits::kStride;
  for (int i = threadIdx.x; i < kRowGroups * Traits::kStride; i += kThreads) {
    shared.q_rows[i] =
        first + i < grid.keys ? static_cast<int32_t>(work.tokens.q_row(first + i)) : -1;
  }
  __syncthreads();
}

// Starts the copies of step `at`: query stride - 1 - i and key i of every group, 64 columns of them.
template <class Traits>
__device__ __forceinline__ void start_step(const GroupWork& work, int at,
                                           GroupShared<Traits>& shared) {
  constexpr int kAtOnce = kThreads / 8;
  const int steps = Traits::kStride * work.panels;
  if (at < work.chunks * steps) {
    const int i = at % steps / work.panels;
    const int64_t column = at % work.panels * kPanelBytes;
    const int64_t first_key =
        static_cast<int64_t>(at / steps) * kKeyGroups * Traits::kStride + i;
    const int chunk = threadIdx.x % 8;
    const uint32_t q = ptx::shared_address(shared.q[at % kStages]);
    const uint32_t k = ptx::shared_address(shared.k[at % kStages]);
    const char* from = work.q.first + column + chunk * kChunkBytes;
#pragma unroll
    for (int n = 0; n < kRowGroups / kAtOnce; ++n) {
      const int group = threadIdx.x / 8 + n * kAtOnce;
      const int row = shared.q_rows[group * Traits::kStride + Traits::kStride - 1 - i];
      ptx::copy_async_16(q + swizzled(group, chunk, kRowGroups),
                         from + max(row, 0) * work.q.stride, row >= 0);
    }
    from = work.keys.first + column + chunk * kChunkBytes;
#pragma unroll
    for (int n = 0; n < kKeyGroups / kAtOnce; ++n) {
      const int group = threadIdx.x / 8 + n * kAtOnce;
      const int64_t key = first_key + group * Traits::kStride;
      const bool valid = key < work.tokens.grid.keys;
      ptx::copy_async_16(k + swizzled(group, chunk, kKeyGroups),
                         from + (valid ? key : 0) * work.keys.stride, valid);
    }
  }
  ptx::copy_async_commit();
}

// s += a step's product.
template <class Traits>
__device__ __forceinline__ void add_step(const GroupShared<Traits>& shared, int slot,
                                         float (&s)[kSums]) {
  using Mma = ptx::Wgmma<typename Traits::Element, kKeyGroups>;
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  const uint64_t a =
      ptx::descriptor(ptx::shared_address(shared.q[slot] + group * 64 * kPanel), 16);
  const uint64_t b = ptx::descriptor(ptx::shared_address(shared.k[slot]), 16);
  ptx::wgmma_fence();
#pragma unroll
  for (int i = 0; i < kPanel / 16; ++i) Mma::template ss<1>(s, a + 2 * i, b + 2 * i);
  ptx::wgmma_commit();
}

// A thread's two row groups: lane / 4 and 8 on.
struct GroupRows {
  int row;
  int64_t seen[2];  // key groups
  float top[2];     // base 2
  float sum[2];     // of this thread's columns
};

// Logits in base 2, -inf where a row group does not see a key group. False: NaN or inf.
__device__ __forceinline__ bool mask_groups(const GroupRows& rows, int64_t first, float factor,
                                            float (&s)[kSums]) {
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    const int64_t group = first + i / 4 * 8 + (i & 1) + threadIdx.x % 4 * 2;
    const bool seen = group < rows.seen[i >> 1 & 1];
    finite = finite && (!seen || s[i] < -ptx::negative_infinity());
    s[i] = seen ? s[i] * factor : ptx::negative_infinity();
  }
  return finite;
}

// Moves a row's maximum to the chunk's, and turns its logits into exponentials.
template <int kRow>
__device__ __forceinline__ void exponentials(GroupRows& rows, float (&s)[kSums]) {
  float top = rows.top[kRow];
#pragma unroll
  for (int i = 2 * kRow; i < kSums; i += 4) top = fmaxf(top, fmaxf(s[i], s[i + 1]));
  top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
  top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
  const float offset = top == ptx::negative_infinity() ? 0.0f : top;
  float sum = rows.sum[kRow] * ptx::exp2(rows.top[kRow] - offset);
#pragma unroll
  for (int i = 2 * kRow; i < kSums; i += 4) {
    s[i] = ptx::exp2(s[i] - offset);
    s[i + 1] = ptx::exp2(s[i + 1] - offset);
    sum += s[i] + s[i + 1];
  }
  rows.top[kRow] = top;
  rows.sum[kRow] = sum;
}

// Stores a row's sums over the chunk's tiles.
template <class Traits, int kRow>
__device__ __forceinline__ void store_tiles(const GroupWork& work, const GroupRows& rows,
                                            int chunk, const float (&s)[kSums]) {
  constexpr int kPerTile = Traits::kTileGroups * 4 / 8;  // accumulators from tile to tile
  const int row = rows.row + 8 * kRow;
  float* to = work.sums + static_cast<int64_t>(row) * work.key_tiles;
  const int lane = threadIdx.x % 4;
  const int first = chunk * Traits::kChunkTiles;
  if constexpr (kPerTile >= 4) {
#pragma unroll
    for (int tile = 0; tile < Traits::kChunkTiles; ++tile) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kPerTile; i += 4) {
        sum += s[tile * kPerTile + i + 2 * kRow] + s[tile * kPerTile + i + 2 * kRow + 1];
      }
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (lane == tile % 4 && first + tile < work.key_tiles) to[first + tile] = sum;
    }
  } else {  // four groups a tile: two lanes'
#pragma unroll
    for (int pair = 0; pair < Traits::kChunkTiles / 2; ++pair) {
      float sum = s[pair * 4 + 2 * kRow] + s[pair * 4 + 2 * kRow + 1];
      sum += __shfl_xor_sync(~0u, sum, 1);
      const int tile = first + 2 * pair + lane / 2;
      if (lane % 2 == 0 && tile < work.key_tiles) to[tile] = sum;
    }
  }
  if (lane == 0) work.tops[static_cast<int64_t>(row) * work.top_stride + chunk] = rows.top[kRow];
}

// All chunks of a block: sums, tops, and every row's maximum and sum. False: NaN or inf.
template <class Traits>
__device__ __forceinline__ bool sum_chunks(const GroupWork& work, float factor,
                                           GroupShared<Traits>& shared) {
  const int steps = Traits::kStride * work.panels;
  GroupRows rows;
  rows.row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = rows.row + 8 * r;
    rows.seen[r] = row < work.groups ? seen_groups(work.tokens.grid, work.first_group + row,
                                                   Traits::kStride)
                                     : 0;
    rows.top[r] = ptx::negative_infinity();
    rows.sum[r] = 0.0f;
  }
  bool finite = true;
  for (int at = 0; at < kAhead; ++at) start_step<Traits>(work, at, shared);
  int at = 0;
  for (int chunk = 0; chunk < work.chunks; ++chunk) {
    float s[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) s[i] = 0.0f;
    for (int step = 0; step < steps; ++step, ++at) {
      ptx::copy_async_wait<kAhead - 1>();
      ptx::fence_async_proxy();
      __syncthreads();  // all are done with step at - 2, whose slot is filled now
      start_step<Traits>(work, at + kAhead, shared);
      add_step<Traits>(shared, at % kStages, s);
      ptx::wgmma_wait<1>();
    }
    ptx::wgmma_wait<0>();
    ptx::keep_in_order(s);
    finite = mask_groups(rows, static_cast<int64_t>(chunk) * kKeyGroups, factor, s) && finite;
    exponentials<0>(rows, s);
    exponentials<1>(rows, s);
    store_tiles<Traits, 0>(work, rows, chunk, s);
    store_tiles<Traits, 1>(work, rows, chunk, s);
  }
  ptx::copy_async_wait<0>();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = rows.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (threadIdx.x % 4 != 0) continue;
    shared.top[rows.row + 8 * r] = rows.top[r];
    shared.share[rows.row + 8 * r] = 1.0f / sum;
  }
  __syncthreads();
  return finite;
}

// Keys of a row tile's others; this lane wrote what it reads.
struct OtherTiles {
  const float* sums;
  int64_t begin, end;  // of those that are not forced
  __device__ __forceinline__ uint32_t key(int c) const {
    return c >= begin && c < end ? score_key(sums[c]) : kNoKey;
  }
};

// Probabilities of a row tile's groups, summed over each key tile, into its first group's row.
// Returns this lane's mass of all and of the others, in fixed point.
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
__global__ void __launch_bounds__(kThreads, 1)
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
    for (int r = threadIdx.x / 32; r < Traits::kStride; r += kWarps) {
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
                 .threads = kThreads,
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
