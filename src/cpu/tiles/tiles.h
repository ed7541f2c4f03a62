// Attend on matrix tiles of 16-bit operands: what its driver (attend.h) and its kernels share.
//
// An operand is bf16 (products = bf16), or two of them (split): hi, the number rounded to bf16, and
// lo, the rest. That holds an f16 exactly and 16 bits of an f32. A product of two split operands is
// hi hi + hi lo + lo hi.
//
// Packed operands are matrix tiles of 1 KiB: 16 rows of 16 pairs. Keys come in blocks of 256:
//   K: [256 / 16][dims / 32] tiles; row r, pair n = (K[key n][2 r], K[key n][2 r + 1])
//   V: [dims / 32][256 / 32][2] tiles; row r, pair n = (V[key 2 r][n], V[key 2 r + 1][n])
// A block is K, V and, with lo, the lo of both. dims is head_dim rounded up to 32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/arena.h"
#include "cpu/kernels.h"
#include "tokensieve/blocks.h"

namespace tokensieve::cpu {

inline constexpr int kTileElements = 512;  // of a matrix tile
inline constexpr int kPartRows = 32;       // query rows of a unit of 2 x 2 matrix tiles
// Row tiles of a task: they share a block of keys while it is in L2, and the softmax of one runs
// beside products of others.
inline constexpr int kBundle = 4;
inline constexpr int kParts = kBundle * kTileRows / kPartRows;
// S of a block, padded so that rows do not fall on the same cache sets.
inline constexpr int kTileStride = kBlockKeys + 16;

inline int tile_dims(int head_dim) { return static_cast<int>(round_up(head_dim, 32)); }

// The packed keys of one panel group.
struct TileBlocks {
  uint16_t* base;
  // [panels]: holds NaN or inf, which must not meet rows that do not see them. Runs in f32.
  uint8_t* unfit;
  int dims;
  bool lo;

  int64_t half() const { return int64_t{kBlockKeys} * dims; }  // K, or V, of a block
  int64_t size() const { return half() * (lo ? 4 : 2); }
  uint16_t* at(int64_t block) const { return base + block * size(); }

  // What `keys` keys take, flags included.
  int64_t bytes(int64_t keys) const {
    return round_up(divide_up(keys, kPanelKeys), kFlags) +
           divide_up(keys, kBlockKeys) * size() * static_cast<int64_t>(sizeof(uint16_t));
  }
  // The flags lie in front of the blocks.
  void place(std::byte* memory, int64_t keys) {
    unfit = reinterpret_cast<uint8_t*>(memory);
    base = reinterpret_cast<uint16_t*>(memory + round_up(divide_up(keys, kPanelKeys), kFlags));
  }

  static constexpr int64_t kFlags = 64;  // alignment
};

// Query rows that see of the keys of `ranges` (disjoint, ascending) and of the key tiles that
// `mask` lists (null: of all) those before row_end[row].
struct RowTile {
  Tile tile;
  const KeyRange* ranges;
  int num_ranges;
  const int32_t* row_end;
  const uint32_t* mask;
  int64_t head;
};

struct TileCall {
  const RowTile* tiles;
  int count;  // <= kBundle
  const TileBlocks& blocks;
  Logits logits;       // no bias
  std::byte* scratch;  // TileScratch::bytes
  // For what matrix tiles cannot hold: kernels of f32 and the rows that the blocks are packed from.
  const Kernels& exact;
  const Rows &k, &v;
};

struct TileKernels {
  Isa isa;

  // Keys [first, first + count) of one panel.
  void (*pack)(const Rows& k, const Rows& v, int64_t first, int count, int head_dim,
               const TileBlocks& blocks);
  // Continues the online softmax of every tile. A row's result depends on nothing but the row, its
  // ranges and its keys: not on which other rows take part.
  void (*attend_split)(const TileCall& call);
  void (*attend_bf16)(const TileCall& call);
};

// 32 query rows on their way through a call.
struct Part {
  uint16_t *qh, *ql;  // [2][dims / 32] matrix tiles
  float* o;           // [kPartRows][dims]
  int rows;
  // Of the row tile:
  const float* q32;
  float *out, *m, *l;
  const int32_t* row_end;
};

// Memory of one thread.
struct TileScratch {
  TileScratch(Arena& arena, int head_dim);
  static size_t bytes(int head_dim);

  Part parts[kParts];
  // S, then P in its place: per 32 keys 64 bytes of hi, 64 bytes of lo. In turn one is multiplied
  // by V, one is in the softmax, one is being computed.
  float* s[3];
  // For what runs in f32: rows and panel.
  Tile exact;
  float *kt, *v;
  int32_t* row_end;
};

}  // namespace tokensieve::cpu
