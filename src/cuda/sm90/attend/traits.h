// Tile sizes, shared memory and barriers of the attend kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/keys/blocks.h"

namespace tokensieve::cuda::sm90 {

template <typename Element_, int kHeadDim_, class Visible_, bool kSoftcap_>
struct Traits {
  using Element = Element_;
  using Visible = Visible_;  // which keys a row sees: cuda/keys/*.h
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kSoftcap = kSoftcap_;

  static constexpr int kTileQ = 128;  // 64 rows a consumer warpgroup
  static constexpr int kTileK = kHeadDim == 256 ? 64 : 128;
  static constexpr int kBoxRows = kTileK;  // of a TMA box
  static constexpr int kStages = kHeadDim == 64 ? 4 : 2;    // of K and of V
  static constexpr int kQStages = kHeadDim == 256 ? 1 : 2;  // the next tile's Q beside this one's
  static constexpr int kWorkStages = 3;
  // Softmax of one warpgroup under the products of the other; at 256 registers leave no room.
  static constexpr bool kPingPong = kHeadDim <= 128;

  // One warpgroup produces (warp 0 K and V, warps 1-3 Q and zeros), two consume.
  static constexpr int kThreads = 384;
  static constexpr int kProducerRegisters = 56;
  static constexpr int kConsumerRegisters = 224;

  static constexpr int kRowChunks = kHeadDim * sizeof(Element) / 16;  // of 16 bytes
  static_assert(kHeadDim % 64 == 0, "tiles are panels of 64 columns");
  static_assert(32 % kRowChunks == 0, "a warp moves whole rows: producer.h and epilogue.h would "
                                      "need idle lanes");
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
  // With block masks: first key of a visit. Twice the stages, because k_empty is arrived at by one
  // thread of a warpgroup, when other warps may not have read theirs: two rounds later they have,
  // since all of them have issued the products of the round between.
  int32_t visit_key[2 * Traits::kStages];
};

enum NamedBarrier : int { kTurnOfGroup0 = 1, kTurnOfGroup1 = 2 };  // 0 is __syncthreads

}  // namespace tokensieve::cuda::sm90
