// Block masks x shapes for the GPU.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/tiles.h"
#include "cuda/backend_cases.h"
#include "support/case_data.h"

namespace tokensieve::cuda::test {

// What a mask says of the tiles that hold a visible pair; all others are random.
enum class Bits {
  kFull, kDiagonal, kFarTile, kColumn0, kNoFirst, kNoMiddle, kNoLast, kNone, kTenth, kHalf
};
inline constexpr int kNumBits = 10;
inline constexpr const char* kBitsNames[kNumBits] = {
    "full", "diagonal", "far_tile", "column0", "no_first", "no_middle", "no_last", "none", "tenth",
    "half"};

struct BlockCase {
  std::string name;
  AttentionShape shape;
  SelectConfig select = {.enabled = false};
  int64_t prefix = 0;  // kept tokens before the newest, of sparse plans
  Share share = Share::kHead;
  int64_t dense_rows = 0;
  bool sinks = false;
  int first_bits = 0, bits_stride = 1;  // which of the masks
  // Tokens of a key tile that no row visits, NaN: of all tokens or of one set.
  bool nan_tile = false;
  // Packed, one behind the other; sequence 1 is NaN.
  std::vector<int32_t> queries, tokens;
};

inline bool visits(Bits bits, const TileGrid& grid, int64_t t, int64_t c,
                   tokensieve::test::Random& random) {
  const int64_t last = grid.row_tiles() - 1;
  switch (bits) {
    case Bits::kFull: return true;
    case Bits::kDiagonal: return c >= grid.diagonal(t);
    case Bits::kFarTile: return c == grid.diagonal(t) / 2;
    case Bits::kColumn0: return c == 0;
    case Bits::kNoFirst: return t != 0 && random.below(2) == 0;
    case Bits::kNoMiddle: return t != last / 2 && random.below(2) == 0;
    case Bits::kNoLast: return t != last && random.below(2) == 0;
    case Bits::kNone: return false;
    case Bits::kTenth: return random.below(10) == 0;
    case Bits::kHalf: return random.below(2) == 0;
  }
  return false;
}

inline constexpr int64_t kNanTile = 2;

// A mask's words; tiles without a visible pair and bits without a tile are random.
inline void fill_mask(Bits bits, const TileGrid& grid, bool nan_tile, int64_t row_tiles,
                      const MaskRows& mask, tokensieve::test::Random& random) {
  for (int64_t t = 0; t < row_tiles; ++t) {
    const int64_t end = t < grid.row_tiles() ? grid.end(t) : 0;
    for (int64_t c = 0; c < 32 * mask.words; ++c) {
      const bool set = c < end ? visits(bits, grid, t, c, random) : random.below(2) == 0;
      if (set && !(nan_tile && c == kNanTile)) mask.set(t, c);
    }
  }
}

inline std::vector<BlockCase> dense_block_cases() {
  using tokensieve::test::self_attention;
  using tokensieve::test::suffix_attention;
  std::vector<BlockCase> cases;
  const auto add = [&](const char* name, const AttentionShape& shape, DType dtype, auto change) {
    BlockCase c = {.name = name, .shape = shape};
    set_dtype(c.shape, dtype);
    change(c);
    cases.push_back(std::move(c));
  };
  const auto nothing = [](BlockCase&) {};
  constexpr DType kF16 = DType::kF16, kBF16 = DType::kBF16;
  add("n1", self_attention(1, 1, 1, 64), kBF16, nothing);
  add("n127", self_attention(127, 4, 1, 128), kF16, nothing);
  add("n128", self_attention(128, 4, 1, 256), kBF16, nothing);
  add("n129", self_attention(129, 9, 3, 64), kF16, nothing);
  add("n255_kv", self_attention(255, 9, 3, 256), kF16, [](BlockCase& c) { c.share = Share::kKv; });
  add("n600", self_attention(600, 32, 8, 128), kBF16, nothing);
  add("n4097", self_attention(4097, 1, 1, 64), kBF16, nothing);
  add("n700_softcap_sinks", self_attention(700, 4, 1, 128), kBF16, [](BlockCase& c) {
    c.sinks = true;
    c.shape.softcap = 20.0f;
  });
  add("n700_softcap_d256", self_attention(700, 4, 2, 256), kBF16, [](BlockCase& c) {
    c.sinks = true;
    c.shape.softcap = 20.0f;
    c.share = Share::kLayer;
  });
  add("n700_softcap_d64", self_attention(700, 4, 2, 64), kF16, [](BlockCase& c) {
    c.shape.softcap = 20.0f;
  });
  add("n900_nan", self_attention(900, 4, 2, 128), kF16, [](BlockCase& c) { c.nan_tile = true; });
  add("n900_nan_d256", self_attention(900, 4, 2, 256), kBF16, [](BlockCase& c) {
    c.nan_tile = true;
  });
  add("n900_dense_rows", self_attention(900, 9, 3, 64), kBF16, [](BlockCase& c) {
    c.dense_rows = 150;
  });
  add("batch3_kv", self_attention(500, 4, 2, 128), kBF16, [](BlockCase& c) {
    c.shape.batch = 3;
    c.share = Share::kKv;
  });
  add("suffix", suffix_attention(333, 1000, 4, 1, 128), kBF16, [](BlockCase& c) {
    c.sinks = true;
  });
  add("suffix_d64", suffix_attention(130, 1151, 9, 3, 64), kF16, nothing);
  add("suffix_d256", suffix_attention(200, 901, 4, 2, 256), kBF16, [](BlockCase& c) {
    c.dense_rows = 10;
  });
  add("suffix_one_row", suffix_attention(1, 1000, 4, 2, 128), kBF16, nothing);
  for (const int32_t dim : {64, 128, 256}) {
    add("packed", self_attention(896, 4, 2, dim), kBF16, [](BlockCase& c) {
      c.queries = c.tokens = {512, 257, 100, 896, 1};
    });
    add("packed_chunks", self_attention(1024, 4, 2, dim), kBF16, [](BlockCase& c) {
      c.queries = {300, 0, 100, 512, 1, 390};
      c.tokens = {640, 257, 700, 1024, 900, 390};
    });
  }
  return cases;
}

// Compact counts of 0, 1 and 127 beyond whole tiles; whole prompts, or chunks of an odd offset.
inline std::vector<BlockCase> sparse_block_cases() {
  std::vector<BlockCase> cases;
  int turn = 0;
  const int32_t dims[] = {128, 64, 256};
  const Share shares[] = {Share::kHead, Share::kKv, Share::kLayer};
  const auto add = [&](std::string name, int64_t queries, Fill fill, Share sets, Share masks,
                       int64_t prefix, auto change) {
    BlockCase c = {.shape = tokensieve::test::suffix_attention(queries, 1500, 4, 2,
                                                               dims[turn % 3]),
                   .select = matrix_select(fill, sets, BudgetPolicy::kKeepCount, 0),
                   .prefix = prefix,
                   .share = masks};
    set_dtype(c.shape, turn % 4 == 1 ? DType::kF16 : DType::kBF16);
    c.select.keep_count = prefix;
    c.select.min_keep = 0;
    change(c);
    c.name = name + "_" + std::to_string(turn++);
    cases.push_back(std::move(c));
  };
  const auto nothing = [](BlockCase&) {};
  for (const Fill fill : {Fill::kZero, Fill::kLocal}) {
    const std::string name = fill == Fill::kZero ? "zero" : "local";
    for (const Share sets : shares) {
      for (const Share masks : shares) {
        const int64_t prefix = 512 + (turn % 3 == 0 ? 0 : turn % 3 == 1 ? 1 : 127);
        add(name, 1500, fill, sets, masks, prefix, [&](BlockCase& c) {
          c.first_bits = turn % 3;
          c.bits_stride = 3;
        });
      }
    }
    add(name + "_softcap_sinks", 1500, fill, Share::kHead, Share::kHead, 600, [](BlockCase& c) {
      c.sinks = true;
      c.shape.softcap = 20.0f;
    });
    add(name + "_sinks_dense_rows", 1500, fill, Share::kHead, Share::kHead, 700,
        [](BlockCase& c) {
          c.sinks = true;
          c.dense_rows = 128;
        });
    add(name + "_batch3", 1500, fill, Share::kHead, Share::kHead, 500,
        [](BlockCase& c) { c.shape.batch = 3; });
    add(name + "_packed", 1500, fill, Share::kHead, Share::kHead, 300, [](BlockCase& c) {
      c.queries = c.tokens = {1152, 600, 900, 40};
    });
  }
  add("zero_nan", 1500, Fill::kZero, Share::kLayer, Share::kHead, 600,
      [](BlockCase& c) { c.nan_tile = true; });
  for (const int64_t queries : {777, 301, 1490}) {
    add("local_suffix", queries, Fill::kLocal, Share::kHead, Share::kHead, 650, nothing);
    add("local_suffix", queries, Fill::kLocal, Share::kLayer, Share::kKv, 650, nothing);
  }
  return cases;
}

}  // namespace tokensieve::cuda::test
