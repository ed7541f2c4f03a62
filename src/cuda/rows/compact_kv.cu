// Stage compact: K and V rows of every set, pushed.
//
// A CTA takes 256 tokens of one kv head. It reads each row that some set of the head keeps once and
// stores it for every set that does. Behind the kept rows, zeros up to a whole tile: attend masks
// those keys, but 0 * NaN would poison its products.
#include "cuda/device/dispatch.h"
#include "cuda/device/launch.h"
#include "cuda/device/rows.h"
#include "cuda/device/sequence.h"
#include "cuda/ptx/barrier.h"
#include "cuda/rows/rows.h"

namespace tokensieve::cuda {
namespace {

constexpr int kCompactThreads = 256;
constexpr int kElementBytes = 2;  // rows of f16 and bf16 move alike
constexpr int kCompactTokens = 256;
constexpr int kWarpTokens = kCompactTokens / (kCompactThreads / 32);
static_assert(kWarpTokens == 32);  // a warp works on one word of the masks

// Row r of a compact tensor, in bytes from its head's first row.
struct CompactRows {
  char* k;
  char* v;
  int64_t k_stride;
  int64_t v_stride;
};

__device__ __forceinline__ CompactRows compact_rows(const CompactParams& params, int batch,
                                                    int head, int chunk) {
  const Tensor& k = params.compact_k;
  const Tensor& v = params.compact_v;
  return {static_cast<char*>(k.data) +
              kElementBytes * (batch * k.batch_stride + head * k.head_stride) +
              chunk * kChunkBytes,
          static_cast<char*>(v.data) +
              kElementBytes * (batch * v.batch_stride + head * v.head_stride) +
              chunk * kChunkBytes,
          kElementBytes * k.seq_stride, kElementBytes * v.seq_stride};
}

// One word of tokens: kSteps * rows_at_once of them per round.
template <int kLanes>
__device__ __forceinline__ void push_word(const CompactParams& params, const Sequence& where,
                                          int batch, int kv_head, int word) {
  static_assert(32 % kLanes == 0, "a warp moves whole rows: other lanes would need to be idle");
  constexpr int kRows = 32 / kLanes;  // rows that a warp moves at once
  constexpr int kSteps = kRows < 8 ? 4 : 2;
  const int lane = threadIdx.x % 32;
  const int chunk = lane % kLanes;
  const int group_size = params.compact_heads / params.num_kv_heads;
  const int first_head = kv_head * group_size;
  const Selection& selection = params.selection;

  uint32_t wanted = 0;
  for (int i = 0; i < group_size; ++i) {
    wanted |= token_set(selection, batch, first_head + i, params.compact_heads).mask[word];
  }
  if (wanted == 0) return;
  const int64_t k_stride = kElementBytes * params.k.seq_stride;
  const int64_t v_stride = kElementBytes * params.v.seq_stride;
  const int64_t token = where.kv_row + static_cast<int64_t>(word) * 32;
  const char* k = static_cast<const char*>(params.k.data) + chunk * kChunkBytes + token * k_stride +
                  kElementBytes *
                      (where.axis * params.k.batch_stride + kv_head * params.k.head_stride);
  const char* v = static_cast<const char*>(params.v.data) + chunk * kChunkBytes + token * v_stride +
                  kElementBytes *
                      (where.axis * params.v.batch_stride + kv_head * params.v.head_stride);

#pragma unroll 1
  for (int first = lane / kLanes; first < 32; first += kSteps * kRows) {
    uint4 k_row[kSteps], v_row[kSteps];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int bit = first + step * kRows;
      if (!(wanted >> bit & 1)) continue;
      k_row[step] = __ldcs(reinterpret_cast<const uint4*>(k + bit * k_stride));
      v_row[step] = __ldcs(reinterpret_cast<const uint4*>(v + bit * v_stride));
    }
    for (int i = 0; i < group_size; ++i) {
      const TokenSet set = token_set(selection, batch, first_head + i, params.compact_heads);
      const uint32_t mask = set.mask[word];
      const int rank = set.rank[word];
      const CompactRows to = compact_rows(params, batch, first_head + i, chunk);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int bit = first + step * kRows;
        if (!(mask >> bit & 1)) continue;
        const int64_t row = rank + __popc(mask & ((1u << bit) - 1));
        *reinterpret_cast<uint4*>(to.k + row * to.k_stride) = k_row[step];
        *reinterpret_cast<uint4*>(to.v + row * to.v_stride) = v_row[step];
      }
    }
  }
}

// Zero rows from `count` to a whole tile, for the compact heads of one kv head.
template <int kLanes>
__device__ __forceinline__ void zero_tail(const CompactParams& params, int batch, int kv_head,
                                          int count) {
  const int group_size = params.compact_heads / params.num_kv_heads;
  const int end = (count + kTileKv - 1) / kTileKv * kTileKv;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  for (int i = 0; i < group_size; ++i) {
    const CompactRows to =
        compact_rows(params, batch, kv_head * group_size + i, threadIdx.x % kLanes);
    for (int64_t row = count + threadIdx.x / kLanes; row < end; row += kCompactThreads / kLanes) {
      *reinterpret_cast<uint4*>(to.k + row * to.k_stride) = zero;
      *reinterpret_cast<uint4*>(to.v + row * to.v_stride) = zero;
    }
  }
}

// Grid: token chunks and one more for the zeros, kv heads, batch.
template <int kLanes>
__global__ void __launch_bounds__(kCompactThreads)
    compact_kernel(const __grid_constant__ CompactParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const int batch = blockIdx.z;
  const int kv_head = blockIdx.y;
  const Sequence where = sequence(params.sequences, batch);
  const int count = params.selection.count[batch];
  if (count == where.seqlen_kv) return;  // runs dense
  if (blockIdx.x == gridDim.x - 1) {
    zero_tail<kLanes>(params, batch, kv_head, count);
    return;
  }
  const int word = (blockIdx.x * kCompactTokens + static_cast<int>(threadIdx.x)) / 32;
  if (word * 32 < where.seqlen_kv) push_word<kLanes>(params, where, batch, kv_head, word);
}

template <int kLanes>
cudaError_t launch_compact(const CompactParams& params, cudaStream_t stream) {
  const int chunks = (params.sequences.seqlen_kv + kCompactTokens - 1) / kCompactTokens;
  return launch(compact_kernel<kLanes>,
                {.grid = dim3(chunks + 1, params.num_kv_heads, params.sequences.batch),
                 .threads = kCompactThreads},
                stream, params);
}

}  // namespace

cudaError_t compact_kv(const CompactParams& params, Element element, int head_dim,
                       cudaStream_t stream) {
  return dispatch(element, head_dim, [&]<typename T, int kHeadDim>(ElementTag<T>, Int<kHeadDim>) {
    static_assert(sizeof(T) == kElementBytes);
    return launch_compact<kHeadDim * kElementBytes / kChunkBytes>(params, stream);
  });
}

}  // namespace tokensieve::cuda
