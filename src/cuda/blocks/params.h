// Stage estimate: what its kernels meet in. As cuda/params.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/device/element.h"
#include "cuda/params.h"
#include "tokensieve/blocks.h"

namespace tokensieve::cuda {

// A row of tiles must fit in shared memory: 2,097,152 tokens.
inline constexpr int64_t kMaxKeyTiles = 16384;

// Chunks of 256 groups of at most 32 keys hold 16 tiles at least.
constexpr int top_stride(int key_tiles) { return key_tiles / 16 + 1; }

// What kFlex found out about a head.
enum class FlexKind : int32_t { kEveryTile, kLines, kQueryAware };

// Heads are query heads. key_tiles, row_tiles, words: of the longest sequence.
struct EstimateScratch {
  uint32_t* every;    // [batch, num_masks] not 0: NaN or inf was met, every tile is visited
  void* key_means;    // [batch, mean_heads, key_tiles, head_dim] of q's type
  // kFlex.
  void* row_means;    // [batch, heads, row_tiles, head_dim] of query-aware heads
  float2* stats;      // [batch, heads, splits, 128] a probe row's max and sum, base 2
  float* verticals;   // [batch, heads, 128 key_tiles] mean over the probe's rows
  float* diagonals;   // [batch, heads, key_tiles, 256] sums along a tile's diagonals
  int32_t* covers;    // [batch, heads, 2] lines that cover gamma; -1: NaN or inf
  FlexKind* kinds;    // [batch, heads]
  uint32_t* lines;    // [batch, heads, 2, words] chosen key tiles, chosen tile distances
  float* map;         // [batch, map_heads, row_tiles, 32 words] of some heads at a time
  // kAntidiagonal: of a CTA.
  float* sums;        // [ctas, 128, key_tiles] of a row group over a tile
  float* tops;        // [ctas, 128, top_stride] maximum that those of a chunk are relative to
};

struct EstimateParams {
  Sequences sequences;
  Heads heads;
  float sm_scale;
  Selection selection;  // indices null: all tokens
  Tensor q;             // [batch, seqlen_q, num_q_heads, head_dim]
  Tensor k;             // [batch, kv_rows, num_kv_heads, head_dim]
  Tensor compact_k;     // [batch, selection.capacity, compact_heads, head_dim]
  int32_t compact_heads;
  BlockConfig config;
  const float* thresholds;  // [num_masks] each mask's gamma, alpha or threshold, or null
  uint32_t* bits;           // [batch, num_masks, row_tiles, words]; all are written
  int32_t num_masks;
  int32_t row_tiles;
  int32_t words;
  int32_t key_tiles;
  int32_t mean_heads;  // num_kv_heads, or compact_heads if that is more
  int32_t splits;      // key ranges of the probe
  int32_t map_heads;
  int32_t ctas;        // of kAntidiagonal
  EstimateScratch scratch;
};

}  // namespace tokensieve::cuda
