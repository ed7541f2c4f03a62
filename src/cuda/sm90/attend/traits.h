// Tile sizes, shared memory and barriers of the attend kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/params.h"

namespace tokensieve::cuda::sm90 {

// One unit of work: 128 query rows of a head against a range of key tiles.
struct Tile {
  int32_t batch;
  int32_t head;       // q head; -1: no more work
  int32_t row;        // first row, counted from the sequence's first attended row
  int32_t num_rows;   // attended rows of this head
  int32_t first_key;  // row r's own position among the keys is first_key + r
  int32_t sink_tile;         // 1: visit key tile 0 first, for the sinks
  int32_t kv_begin, kv_end;  // key tiles, visited from the last one down
  int32_t sparse;     // the sequence has indices, and K and V are the compact ones
  int32_t part, num_parts;  // this tile's share of the rows to be zeroed

  __device__ __forceinline__ int visits() const { return kv_end - kv_begin + sink_tile; }
};

template <typename Element_, int kHeadDim_, Keys kKeys_, bool kSoftcap_>
struct Traits {
  using Element = Element_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr Keys kKeys = kKeys_;
  static constexpr bool kSoftcap = kSoftcap_;

  static constexpr int kTileQ = 128;  // 64 rows a consumer warpgroup
  static constexpr int kTileK = kHeadDim == 256 ? 64 : 128;
  static constexpr int kStages = kHeadDim == 64 ? 4 : 2;    // of K and of V
  static constexpr int kQStages = kHeadDim == 256 ? 1 : 2;  // the next tile's Q beside this one's
  static constexpr int kWorkStages = 3;
  // Softmax of one warpgroup under the products of the other; at 256 registers leave no room.
  static constexpr bool kPingPong = kHeadDim <= 128;

  // One warpgroup produces (warp 0 K and V, warps 1-3 Q and zeros), two consume.
  static constexpr int kThreads = 384;
  static constexpr int kProducerRegisters = 56;
  static constexpr int kConsumerRegisters = 224;

  static constexpr int kPanels = kHeadDim / 64;
  static constexpr int kTileKBytes = kTileK * kHeadDim * 2;
  static constexpr int kLoaderThreads = 96;
  static constexpr int kConsumerThreads = 256;
};

template <class Traits>
struct SharedMemory {
  using Element = typename Traits::Element;
  // Panels of 64 columns, 128-byte swizzle. The epilogue stages a tile's output over its Q.
  alignas(1024) Element q[Traits::kQStages][Traits::kTileQ * Traits::kHeadDim];
  alignas(1024) Element k[Traits::kStages][Traits::kTileK * Traits::kHeadDim];
  alignas(1024) Element v[Traits::kStages][Traits::kTileK * Traits::kHeadDim];
  Tile work[Traits::kWorkStages];
  // full: written, empty: read by everybody. Arrivals:
  uint64_t work_full[Traits::kWorkStages];   // 1: the K/V thread
  uint64_t work_empty[Traits::kWorkStages];  // 11: one lane of each loader and consumer warp
  uint64_t q_full[Traits::kQStages];         // 96: loader threads
  uint64_t q_empty[Traits::kQStages];        // 256: consumer threads
  uint64_t k_full[Traits::kStages];          // 1 + bytes: TMA
  uint64_t k_empty[Traits::kStages];         // 2: one thread of each consumer warpgroup
  uint64_t v_full[Traits::kStages];
  uint64_t v_empty[Traits::kStages];
};

enum NamedBarrier : int { kTurnOfGroup0 = 1, kTurnOfGroup1 = 2 };  // 0 is __syncthreads

// Position in a ring of kStages: which slot, and which parity its phase has.
template <int kStages>
struct RingPosition {
  int slot = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void advance() {
    if (++slot == kStages) {
      slot = 0;
      phase ^= 1;
    }
  }
};

// Byte offset of 16-byte chunk `chunk` of row `row` in a tile of `rows` rows.
__device__ __forceinline__ uint32_t swizzled(int row, int chunk, int rows) {
  return (chunk >> 3) * (rows * 128) + row * 128 + (((chunk & 7) ^ (row & 7)) << 4);
}

}  // namespace tokensieve::cuda::sm90
