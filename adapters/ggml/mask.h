// Mask analysis: turns the f16 mask of a FLASH_ATTN_EXT node into calls that the library has.
//
// A row is a query, a column a cell of the KV cache. Cell order need not be token order, and cells
// may be empty or belong to other sequences: cells that no row allows are never named.
// Pure functions over f16 bits; they include no ggml, so that a fuzzer can reach them.
#pragma once

#include <cstdint>
#include <vector>

#include "tokensieve/executor.h"

namespace tokensieve::ggml {

inline constexpr uint16_t kMaskedBits = 0xfc00;  // f16 -inf

struct MaskView {
  const uint16_t* bits = nullptr;  // f16 [rows, cells]
  int64_t rows = 0;
  int64_t cells = 0;
  int64_t row_stride = 0;  // elements

  const uint16_t* row(int64_t i) const { return bits + i * row_stride; }
};

// Contiguous rows that one library call answers.
struct MaskSegment {
  // Causal: each row allows the cells of the row before and exactly one more, all with value 0.
  // Otherwise the mask itself must be given as a bias.
  bool causal = false;
  // Causal, and nothing in the rest of the mask says that its rows belong to a window, a chunk of
  // attention or one of several sequences: tokens may be selected for it.
  bool plain = false;
  int64_t first_row = 0;
  int64_t num_rows = 0;
  // The cells that any of its rows allows, in MaskAnalysis::cells. Causal: ordered by (first row
  // that allows it, cell), so that row first_row + i sees the first num_cells - num_rows + 1 + i.
  // Otherwise ascending.
  int64_t first_cell = 0;
  int64_t num_cells = 0;
  int64_t pairs = 0;  // (row, cell) that its rows allow
};

struct MaskAnalysis {
  std::vector<MaskSegment> segments;  // cover all rows, ascending
  std::vector<int32_t> cells;

  // Scratch, kept to avoid allocations.
  std::vector<int32_t> step;
  std::vector<uint8_t> flags;
  std::vector<int64_t> pairs;
};

// Shortest causal run that gets a call of its own; shorter ones are answered with a bias.
inline constexpr int64_t kMinCausalRows = 64;

// Most rows of a biased segment: those of a sliding window see few of all cells, and only they are
// packed and attended. A multiple of the library's tiles.
inline constexpr int64_t kMaxBiasedRows = 512;

// `force_bias` for masks whose values are scaled (ALiBi): biased segments only.
void analyze_mask(const MaskView& mask, bool force_bias, Executor& executor,
                  MaskAnalysis& analysis);

}  // namespace tokensieve::ggml
