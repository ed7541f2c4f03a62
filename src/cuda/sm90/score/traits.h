// Tile sizes, shared memory and work split of stage score.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <numeric>

#include "cuda/device/sequence.h"
#include "cuda/params.h"
#include "cuda/sm90/ring.h"

namespace tokensieve::cuda::sm90 {

template <typename Element_, int kHeadDim_, bool kSoftcap_>
struct ScoreTraits {
  using Element = Element_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kSoftcap = kSoftcap_;

  static constexpr int kTileQ = 128;                          // window rows of a Q tile
  static constexpr int kQTiles = kHeadDim == 256 ? 2 : 4;     // Q tiles that a CTA keeps
  static constexpr int kRowChunks = kHeadDim * sizeof(Element) / 16;  // of 16 bytes
  // Keys of a tile in pass 1: 256 columns leave room for 64 only, softcap at 64 columns registers.
  static constexpr int kStatsTileK =
      kHeadDim == 256 || (kHeadDim == 64 && kSoftcap) ? 64 : 128;
  static constexpr int kKeyBytes = kHeadDim == 64 ? 64 << 10 : 96 << 10;  // all stages of K

  // Four consumer warpgroups with one accumulator tile each: while one waits for its product the
  // others take exponentials. One more warp loads K.
  static constexpr int kGroups = 4;
  static constexpr int kConsumerThreads = kGroups * 128;
  static constexpr int kThreads = kConsumerThreads + 32;
};

inline constexpr int kScoreBoxRows = 64;  // of a TMA box

// kTileK keys a stage.
template <class Traits, int kTileK_>
struct ScoreShared {
  using Element = typename Traits::Element;
  static constexpr int kHeadDim = Traits::kHeadDim;
  static constexpr int kTileK = kTileK_;
  static constexpr int kBoxRows = kScoreBoxRows;
  static constexpr int kTileBytes = kTileK * kHeadDim * static_cast<int>(sizeof(Element));
  static constexpr int kStages = Traits::kKeyBytes / kTileBytes;
  // Tile t arrives on barrier t % kFull. A multiple of kStages and of the warpgroups, so that in
  // pass 2, where they take turns, a barrier has one waiter that sees all its phases: one that
  // skipped phases could take an old one for its own.
  static constexpr int kFull = std::lcm(kStages, Traits::kGroups);
  using Step = RingStep<kStages, kFull>;

  // Panels of 64 columns, 128-byte swizzle.
  alignas(1024) Element q[Traits::kQTiles][Traits::kTileQ * Traits::kHeadDim];
  alignas(1024) Element k[kStages][kTileK * Traits::kHeadDim];
  float weight[Traits::kQTiles * Traits::kTileQ];  // pass 2: log2 of a row's softmax sum x W
  uint64_t full[kFull];                            // 1 + bytes: TMA
  uint64_t empty[kStages];                         // one lane of every reading warp
};

// Which rows of the window a launch works on. The Q tiles of a CTA are `row_tiles` tiles each of
// `heads` q heads of one kv head.
struct ScoreRows {
  int first_row;   // of the window
  int row_tiles;   // of kTileQ rows, <= kQTiles
  int heads;       // q heads per CTA
  int groups;      // CTAs per kv head and key range
  int accumulate;  // pass 2 adds to token_score instead of writing it
};

// What one CTA works on.
struct ScoreWork {
  Sequence where;
  int batch;
  int split;
  int kv_head;
  int first_head;  // q head
  int heads;
  int first_query;  // of the window, counted from the sequence's first query
  int tile_begin;   // key tiles
  int tile_end;
};

__device__ __forceinline__ ScoreWork score_work(const ScoreParams& params, const ScoreRows& rows,
                                                bool prefix_only, int tile_keys) {
  ScoreWork work;
  work.batch = blockIdx.z;
  work.split = blockIdx.x;
  work.kv_head = blockIdx.y / rows.groups;
  work.where = sequence(params.sequences, work.batch);
  const int group_size = params.heads.num_q_heads / params.heads.num_kv_heads;
  const int first = blockIdx.y % rows.groups * rows.heads;
  work.first_head = work.kv_head * group_size + first;
  work.heads = min(rows.heads, group_size - first);
  work.first_query = work.where.seqlen_q - params.obs_window;
  const int keys =
      work.where.seqlen_kv - (prefix_only ? suffix_of(params.suffix, work.where) : 0);
  const int64_t tiles = keys > 0 ? (keys + tile_keys - 1) / tile_keys : 0;
  work.tile_begin = static_cast<int>(tiles * work.split / params.splits);
  work.tile_end = static_cast<int>(tiles * (work.split + 1) / params.splits);
  return work;
}

}  // namespace tokensieve::cuda::sm90
