// The SIMD kernels of one instruction set, behind plain function pointers.
//
// Panels: keys are packed 64 at a time. A K panel is K^T as [64 / panel_cols][dim][panel_cols], a
// V panel is [64][dim], both f32 and 64-byte aligned; keys past the end are zero. All logits are
// in the log2 domain: q is scaled by sm_scale * log2(e) when it is loaded.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "tokensieve/backend.h"
#include "tokensieve/tensor.h"

namespace tokensieve::cpu {

inline constexpr int kPanelKeys = 64;   // keys of a panel
inline constexpr int kTileRows = 64;    // query rows of a tile; equals kLocalBlock
inline constexpr int kRowPadding = 4;   // rows of a buffer past its last that may be computed
inline constexpr int kBlockKeys = 256;  // keys per online-softmax step: S is 64 KiB, within L2
inline constexpr float kLog2E = 1.44269504088896341f;
inline constexpr float kLn2 = 0.69314718055994531f;
// Masked logits are finite, so that masked - masked is 0 and not NaN.
inline constexpr float kMasked = -1e30f;

// Rows of one head of one sequence. Row r is token t = indices ? indices[r] : r, stored at row
// cells ? cells[t] : t of the tensor.
struct Rows {
  const char* base = nullptr;
  int64_t stride_bytes = 0;
  DType dtype = DType::kF32;
  const int32_t* indices = nullptr;
  const int32_t* cells = nullptr;

  const char* row(int64_t r) const {
    int64_t t = indices ? indices[r] : r;
    if (cells) t = cells[t];
    return base + t * stride_bytes;
  }
};

// How a logit is made from q * k.
struct Logits {
  float softcap = 0.0f;            // softcap * log2(e), or 0: logit = softcap * tanh(q k)
  const uint16_t* bias = nullptr;  // f16, row 0 of the tile's first query
  int64_t bias_stride = 0;
  float bias_scale = 0.0f;              // slope * log2(e)
  const int32_t* bias_cells = nullptr;  // column of key j: bias_cells ? bias_cells[j] : j
};

// Online softmax of up to kTileRows query rows: m and l are the running maximum and sum, o the
// unnormalised output [rows][dim].
struct Tile {
  float* q;  // [kTileRows + kRowPadding][dim], scaled
  float* o;  // [kTileRows + kRowPadding][dim]
  float* m;  // [kTileRows]
  float* l;  // [kTileRows]
  float* s;  // [kTileRows + kRowPadding][kBlockKeys], shared by the tiles of a thread
  int rows;
  int dim;
};

// Keys [begin, end) of packed panels.
struct KeyRange {
  int64_t begin;
  int64_t end;
};

// What the rows of a tile see of packed panels: row r the keys of `ranges` (disjoint, ascending)
// before row_end[r], or all of them if row_end is null.
struct VisibleKeys {
  const float* kt;
  const float* v;
  std::span<const KeyRange> ranges;
  const int32_t* row_end;
};

// Where a block of keys and its queries lie: key j at min(key + j * step, last), query i at
// query + i. A query sees the keys up to its own position.
struct Positions {
  int64_t query;
  int64_t key;
  int64_t step = 1;
  int64_t last = std::numeric_limits<int64_t>::max();
};

struct Kernels {
  Isa isa;
  int panel_cols;

  // dst [count][dim] = rows [first, first + count) * scale.
  void (*load_rows)(const Rows& rows, int64_t first, int count, int dim, float scale, float* dst);
  // One panel of keys [first, first + count), count <= kPanelKeys. Either output may be null.
  void (*pack_panel)(const Rows& k, const Rows& v, int64_t first, int count, int dim, float* kt,
                     float* v_out);
  // Continues the online softmax of `tile` over `keys`.
  void (*attend)(const Tile& tile, const VisibleKeys& keys, const Logits& logits);
  // dst [dim] = o * scale, rounded to dtype.
  void (*store_row)(const float* o, float scale, int dim, DType dtype, void* dst);

  // qt [count / panel_cols rounded up][dim][panel_cols] from rows [first, first + count), scaled.
  void (*pack_queries)(const Rows& q, int64_t first, int count, int dim, float scale, float* qt);
  // Exponentials of keys [first, first + count), count <= kBlockKeys, against panel_cols queries:
  // e [count][panel_cols] = 2^(logit - m), m and l [panel_cols] their maximum and sum. k_rows is
  // scratch [kPanelKeys + kRowPadding][dim]; null: k is f32 with kRowPadding readable rows past the
  // last, and is read in place.
  void (*score_block)(const Rows& k, int64_t first, int count, int dim, const float* qt,
                      const Positions& at, float softcap, float* k_rows, float* e, float* m,
                      float* l);
  // score[j] += sum over queries of e[j][i] * weight[i].
  void (*score_sum)(const float* e, int count, const float* weight, float* score);
  // The same along diagonals: slash[count - 1 - j + i] = sum of e[j][i] * weight[i], for the
  // count + panel_cols - 1 distances of the block, nearest last key first.
  void (*slash_sum)(const float* e, int count, const float* weight, float* slash);
};

// Those of f32. Null if the instruction set is not compiled in or this CPU lacks it.
const Kernels* kernels_for(Isa isa);

// Those of 16-bit tiles; also null of instruction sets without tiles.
struct TileKernels;
const TileKernels* tile_kernels_for(Isa isa);

// Asks the system for the hardware's tiles, for this process and for good. kNone: granted.
ProductsReason ask_for_tiles();

}  // namespace tokensieve::cpu
