// Normalises a tile's output, merges it with the local pass and writes it to the rows' own places.
#pragma once

#include "cuda/sm90/attend/consumer.h"

namespace tokensieve::cuda::sm90 {

// Normalisation and log-sum-exp (natural) of the two rows that a thread owns.
struct RowResult {
  float scale[2];
  float lse[2];
};

// The weights of a merge: out = fresh * result + kept * what `out` holds.
struct MergeWeights {
  float fresh[2] = {1.0f, 1.0f};
  float kept[2] = {0.0f, 0.0f};
};

template <class Traits>
__device__ __forceinline__ RowResult finish_softmax(const AttendParams& params, const Tile& tile,
                                                    const Consumer<Traits>& consumer) {
  // Extra mass counts once: in the local pass, where there are two.
  const bool add_sink = params.softmax.sink_mass != nullptr &&
                        !(Traits::Visible::kMerges && tile.sparse);
  RowResult result;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float max = consumer.softmax.max[i] * consumer.scale;
    float sum = consumer.softmax.sum[i];
    float scale = 1.0f;
    // A row whose tiles show it nothing has no mass.
    if (add_sink && !(Traits::Visible::kBlocks && sum == 0.0f)) {
      const float sink = params.softmax.sink_mass[tile.head] * kLog2e;
      const float top = fmaxf(max, sink);
      scale = ptx::exp2(max - top);
      sum = sum * scale + ptx::exp2(sink - top);
      max = top;
    }
    result.scale[i] = sum == 0.0f ? 0.0f : scale / sum;  // a NaN sum stays one
    result.lse[i] = sum == 0.0f ? ptx::negative_infinity() : (max + log2f(sum)) * kLn2;
  }
  return result;
}

// Writes lse; in the compact pass of local fill merges it with the local pass's, which it replaces.
template <class Traits>
__device__ __forceinline__ MergeWeights finish_lse(const AttendParams& params, const Tile& tile,
                                                   const Sequence& where,
                                                   const Consumer<Traits>& consumer,
                                                   const RowResult& result) {
  MergeWeights weights;
  if (params.lse == nullptr) return weights;
  float* lse = params.lse + where.axis * params.lse_batch_stride +
               tile.head * params.lse_head_stride + where.q_row;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = tile.row + consumer.first_row() + 8 * i;
    const int query = __shfl_sync(~0u, consumer.queries, threadIdx.x % 32 / 4 + 8 * i);
    float total = result.lse[i];
    if (Traits::Visible::kMerges && tile.sparse) {
      const float local = lse[query];
      const float top = fmaxf(local, total);
      weights.kept[i] = ptx::exp2((local - top) * kLog2e);
      weights.fresh[i] = ptx::exp2((total - top) * kLog2e);
      const float sum = weights.kept[i] + weights.fresh[i];
      weights.kept[i] *= ptx::reciprocal(sum);
      weights.fresh[i] *= ptx::reciprocal(sum);
      total = top + log2f(sum) * kLn2;
      __syncwarp();  // all lanes of the quad have read
    }
    if (threadIdx.x % 4 == 0 && row < tile.num_rows) lse[query] = total;
    __syncwarp();
  }
  return weights;
}

// Weighted sum of eight 16-bit values each.
template <typename Element>
__device__ __forceinline__ uint4 merge_chunk(const uint4& fresh, float fresh_weight,
                                             const uint4& kept, float kept_weight) {
  uint4 merged;
  const uint32_t* a = &fresh.x;
  const uint32_t* b = &kept.x;
  uint32_t* to = &merged.x;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 x = ptx::unpack<Element>(a[i]);
    const float2 y = ptx::unpack<Element>(b[i]);
    to[i] = ptx::pack<Element>(fresh_weight * x.x + kept_weight * y.x,
                               fresh_weight * x.y + kept_weight * y.y);
  }
  return merged;
}

// Every warp stages its 16 rows over its own 16 rows of Q, then stores whole rows.
template <class Traits>
__device__ __forceinline__ void store_tile(const AttendParams& params, SharedMemory<Traits>& shared,
                                           int work_slot, const Consumer<Traits>& consumer,
                                           int q_slot) {
  using Element = typename Traits::Element;
  // Read again: kept over the key tiles it would cost the registers that they need.
  const Tile tile = read_tile<Traits>(shared, work_slot);
  const Sequence where = sequence(params.sequences, tile.batch);
  const RowResult result = finish_softmax<Traits>(params, tile, consumer);
  char* stage = reinterpret_cast<char*>(shared.q[q_slot]);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < Consumer<Traits>::kOutputs; i += 2) {
    const int half = i >> 1 & 1;
    const int row = consumer.first_row() + 8 * half;
    const float scale = result.scale[half];
    *reinterpret_cast<uint32_t*>(stage + swizzled(row, i / 4, Traits::kTileQ) + lane % 4 * 4) =
        ptx::pack<Element>(consumer.out[i] * scale, consumer.out[i + 1] * scale);
  }
  __syncwarp();
  const MergeWeights weights = finish_lse<Traits>(params, tile, where, consumer, result);

  constexpr int kElementBytes = sizeof(Element);
  constexpr int kLanes = Traits::kRowChunks;
  constexpr int kRows = 32 / kLanes;            // rows that a warp stores at once
  const int warp_row = consumer.first_row() - lane / 4;
  char* out = static_cast<char*>(params.out.data) +
              kElementBytes * row_offset(params.out, where.axis, tile.head, where.q_row);
  constexpr int kAtOnce = Traits::kHeadDim == 256 ? 4 : 16 / kRows;  // all 16 would spill at 256
#pragma unroll kAtOnce
  for (int i = 0; i < 16 / kRows; ++i) {
    const int offset = i * kRows + lane / kLanes;
    const int row = warp_row + offset;
    const int half = offset / 8;
    const int owner = offset % 8 * 4;
    const float fresh = __shfl_sync(~0u, weights.fresh[0], owner);
    const float fresh8 = __shfl_sync(~0u, weights.fresh[1], owner);
    const float kept = __shfl_sync(~0u, weights.kept[0], owner);
    const float kept8 = __shfl_sync(~0u, weights.kept[1], owner);
    const int query = __shfl_sync(~0u, consumer.queries, offset);
    if (tile.row + row >= tile.num_rows) continue;
    const int chunk = lane % kLanes;
    uint4 value = *reinterpret_cast<const uint4*>(stage + swizzled(row, chunk, Traits::kTileQ));
    uint4* to = reinterpret_cast<uint4*>(out + kElementBytes * query * params.out.seq_stride +
                                         chunk * kChunkBytes);
    if (Traits::Visible::kMerges && tile.sparse) {
      value = merge_chunk<Element>(value, half ? fresh8 : fresh, *to, half ? kept8 : kept);
    }
    *to = value;
  }
  ptx::mbarrier_arrive(&shared.q_empty[q_slot]);
}

}  // namespace tokensieve::cuda::sm90
