// Packs rows of any dtype into matrix tiles of bf16, hi and lo (tiles.h).
#if defined(TOKENSIEVE_CPU_TILES_PACK_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_TILES_PACK_TILES_INL_H_
#undef TOKENSIEVE_CPU_TILES_PACK_TILES_INL_H_
#else
#define TOKENSIEVE_CPU_TILES_PACK_TILES_INL_H_
#endif

#include <algorithm>

#include "cpu/tiles/matrix-inl.h"

TOKENSIEVE_BEFORE_TILES();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

// A finite x to bf16, to nearest even, in the upper halves of the lanes. What is too small for a
// normal number stays, and is 0 to the tiles.
HWY_INLINE VU32 round_finite(VF32 x) {
  const U32 d;
  const VU32 bits = hn::BitCast(d, x);
  const VU32 odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
  const VU32 rounded = hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fffu)));
  return hn::And(rounded, hn::Set(d, 0xffff0000u));
}

// A vector in two pieces, in the upper halves of the lanes. `largest`: of the magnitudes so far.
struct Pieces {
  VU32 hi, lo;
};
HWY_INLINE Pieces pieces_of(VF32 x, VU32& largest) {
  const U32 d;
  largest = hn::Max(largest, hn::And(hn::BitCast(d, x), hn::Set(d, 0x7fffffffu)));
  const VU32 hi = round_finite(x);
  return {hi, round_finite(hn::Sub(x, hn::BitCast(F32(), hi)))};
}

// Whether some hi is NaN or inf, if only by rounding.
HWY_INLINE bool holds_nan_or_inf(VU32 largest) {
  const U32 d;
  return hn::GetLane(hn::MaxOfLanes(d, largest)) >= 0x7f7f8000u;
}

// Columns [c, c + 32) of a row of `dim`, as far as there are any; a null row is zeros.
template <DType kDType>
HWY_INLINE void split_row(const char* row, int c, int dim, uint16_t* hi, uint16_t* lo,
                          VU32& largest) {
  const F32 d;
  for (int i = 0; i < 32; i += 2 * kLanes) {
    // head_dim is a multiple of 16, which two vectors may straddle.
    const auto piece = [&](int at) {
      return row != nullptr && at < dim ? load<kDType>(row, at) : hn::Zero(d);
    };
    const Pieces first = pieces_of(piece(c + i), largest);
    const Pieces second = pieces_of(piece(c + i + kLanes), largest);
    hn::StoreU(upper_halves(first.hi, second.hi), U16(), hi + i);
    if (lo != nullptr) hn::StoreU(upper_halves(first.lo, second.lo), U16(), lo + i);
  }
}

// A matrix tile's 16 rows of 16 words, transposed.
HWY_INLINE void store_transposed(const uint16_t (*from)[32], uint16_t* to) {
#if HWY_TARGET <= HWY_AVX3
  __m512 r[16];
  HWY_UNROLL(16)
  for (int i = 0; i < 16; ++i) r[i] = _mm512_load_ps(from[i]);
  transpose(r);
  HWY_UNROLL(16)
  for (int i = 0; i < 16; ++i) _mm512_store_ps(to + i * 32, r[i]);
#else
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      to[i * 32 + 2 * j] = from[j][2 * i];
      to[i * 32 + 2 * j + 1] = from[j][2 * i + 1];
    }
  }
#endif
}

// Keys [16 g, 16 g + 16) of a block, of which `rows` has those that there are.
template <DType kDType>
void pack_keys(const char* const* rows, int count, int head_dim, int g, const TileBlocks& blocks,
               uint16_t* block, VU32& largest) {
  alignas(64) uint16_t hi[16][32], lo[16][32];
  for (int c = 0; c < blocks.dims; c += 32) {
    for (int i = 0; i < 16; ++i) {
      split_row<kDType>(i < count ? rows[i] : nullptr, c, head_dim, hi[i],
                        blocks.lo ? lo[i] : nullptr, largest);
    }
    uint16_t* to = block + (g * (blocks.dims / 32) + c / 32) * kTileElements;
    store_transposed(hi, to);
    if (blocks.lo) store_transposed(lo, to + 2 * blocks.half());
  }
}

// Where in a block's V the matrix tile of keys [32 step, 32 step + 32), column c starts.
HWY_INLINE int64_t value_tile(int step, int c) {
  return (int64_t{c / 32 * (kBlockKeys / 32) + step} * 2 + c % 32 / 16) * kTileElements;
}

// Values of keys [32 step, 32 step + 32) of a block.
template <DType kDType>
void pack_values(const char* const* rows, int count, int head_dim, int step,
                 const TileBlocks& blocks, uint16_t* block, VU32& largest) {
  const F32 d;
  const auto pairs = [&](VU32 even, VU32 odd) {
    return hn::BitCast(U16(), hn::Or(hn::ShiftRight<16>(even), odd));
  };
  for (int r = 0; r < 32; r += 2) {
    for (int c = 0; c < blocks.dims; c += kLanes) {
      const auto piece = [&](int i) {
        return i < count && c < head_dim ? load<kDType>(rows[i], c) : hn::Zero(d);
      };
      const Pieces even = pieces_of(piece(r), largest);
      const Pieces odd = pieces_of(piece(r + 1), largest);
      uint16_t* to = block + blocks.half() + value_tile(step, c) + r * 16 + c % 16 * 2;
      hn::Store(pairs(even.hi, odd.hi), U16(), to);
      if (blocks.lo) hn::Store(pairs(even.lo, odd.lo), U16(), to + 2 * blocks.half());
    }
  }
}

void pack_tiles(const Rows& k, const Rows& v, int64_t first, int count, int head_dim,
                const TileBlocks& blocks) {
  uint16_t* block = blocks.at(first / kBlockKeys);
  const int at = static_cast<int>(first % kBlockKeys);
  const char *keys[kPanelKeys], *values[kPanelKeys];
  for (int i = 0; i < count; ++i) {
    keys[i] = k.row(first + i);
    values[i] = v.row(first + i);
  }
  VU32 largest = hn::Zero(U32());
  for_dtype(k.dtype, [&]<DType kDType>() {
    for (int i = 0; i < kPanelKeys; i += 16) {
      pack_keys<kDType>(keys + i, std::clamp(count - i, 0, 16), head_dim, (at + i) / 16, blocks,
                        block, largest);
    }
  });
  for_dtype(v.dtype, [&]<DType kDType>() {
    for (int i = 0; i < kPanelKeys; i += 32) {
      pack_values<kDType>(values + i, std::clamp(count - i, 0, 32), head_dim, (at + i) / 32, blocks,
                          block, largest);
    }
  });
  blocks.unfit[first / kPanelKeys] = holds_nan_or_inf(largest);
}

// Rows of q as A: [2][dims / 32] matrix tiles, row-major; rows past the last are 0. False if they
// hold NaN or inf.
HWY_INLINE bool pack_query_tiles(const float* q, int rows, int head_dim, int dims, uint16_t* hi,
                                 uint16_t* lo) {
  VU32 largest = hn::Zero(U32());
  for (int r = 0; r < kPartRows; ++r) {
    const char* row = r < rows ? reinterpret_cast<const char*>(q + r * head_dim) : nullptr;
    for (int c = 0; c < dims; c += 32) {
      const int64_t at = (r / 16 * (dims / 32) + c / 32) * kTileElements + r % 16 * 32;
      split_row<DType::kF32>(row, c, head_dim, hi + at, lo ? lo + at : nullptr, largest);
    }
  }
  return !holds_nan_or_inf(largest);
}

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
