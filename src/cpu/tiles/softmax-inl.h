// Online softmax of a part's rows over one item: S becomes P, in place, as bf16.
#if defined(TOKENSIEVE_CPU_TILES_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_TILES_SOFTMAX_INL_H_
#undef TOKENSIEVE_CPU_TILES_SOFTMAX_INL_H_
#else
#define TOKENSIEVE_CPU_TILES_SOFTMAX_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "cpu/tiles/products-inl.h"

TOKENSIEVE_BEFORE_TILES();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

constexpr int kPiece = 32 / kLanes;  // vectors of 32 keys

// Columns [begin, end) of S that a row sees, of `cols`.
struct Seen {
  int begin, end, cols;
};

inline Seen seen_by(const Item& item, int64_t row_end) {
  const int64_t first = item.block * kBlockKeys + item.first;
  const int begin = static_cast<int>(item.begin - first);
  return {begin, static_cast<int>(std::clamp<int64_t>(row_end, item.begin, item.end) - first),
          item.cols};
}

// 2^x: with products of bf16, to 7.5e-5, which is far below their own rounding.
template <bool kSplit>
HWY_INLINE VF32 power(VF32 x) {
  return exp2<kSplit ? 5 : 3>(x);
}

// The maximum of each of four vectors: one chain of shuffles.
HWY_INLINE void maxima(const VF32 (&x)[4], float* max) {
#if HWY_TARGET <= HWY_AVX3
  const auto pair = [](VF32 a, VF32 b) {
    return _mm512_max_ps(_mm512_unpacklo_ps(a.raw, b.raw), _mm512_unpackhi_ps(a.raw, b.raw));
  };
  const __m512 ab = pair(x[0], x[1]), cd = pair(x[2], x[3]);
  const __m512 wide =
      _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half =
      _mm256_max_ps(_mm512_castps512_ps256(wide), _mm512_extractf32x8_ps(wide, 1));
  _mm_storeu_ps(max,
                _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#else
  for (int i = 0; i < 4; ++i) max[i] = hn::GetLane(hn::MaxOfLanes(F32(), x[i]));
#endif
}

// Hides what the row does not see; its maximum in the lanes.
HWY_INLINE VF32 prepare_row(float* s, const Seen& seen, float softcap) {
  const F32 d;
  if (softcap != 0.0f) {
    const VF32 cap = hn::Set(d, softcap);
    for (int c = 0; c < seen.cols; c += kLanes) {
      hn::Store(cap_logit(hn::Load(d, s + c), cap), d, s + c);
    }
  }
  std::fill(s, s + seen.begin, kMasked);
  std::fill(s + seen.end, s + seen.cols, kMasked);
  VF32 max0 = hn::Load(d, s), max1 = hn::Load(d, s + kLanes);
  for (int c = 2 * kLanes; c < seen.cols; c += 2 * kLanes) {
    max0 = hn::Max(max0, hn::Load(d, s + c));
    max1 = hn::Max(max1, hn::Load(d, s + c + kLanes));
  }
  return hn::Max(max0, max1);
}

// Whether nothing takes part in the softmax. The maximum does not tell NaN from masked.
inline bool sees_nothing(const float* s, const Seen& seen, float max) {
  const auto masked = [](float x) { return x <= 0.5f * kMasked; };
  return seen.end <= seen.begin ||
         (masked(max) && std::all_of(s + seen.begin, s + seen.end, masked));
}

// P of 32 keys in place of their S.
template <bool kSplit, typename Matrix>
HWY_INLINE void store_powers(const VF32 (&p)[kPiece], float* s) {
  const U32 du;
  const U16 half;
  uint16_t* to = reinterpret_cast<uint16_t*>(s);
  HWY_UNROLL(4)
  for (int i = 0; i < kPiece; i += 2) {
    uint16_t* at = to + i * kLanes;
    if constexpr (kSplit) {  // hi is cut off, lo the rest: 16 bits
      const VU32 first = hn::BitCast(du, p[i]), second = hn::BitCast(du, p[i + 1]);
      const VU32 upper = hn::Set(du, 0xffff0000u);
      const auto rest = [&](VF32 x, VU32 bits) {
        return hn::Sub(x, hn::BitCast(F32(), hn::And(bits, upper)));
      };
      hn::Store(upper_halves(first, second), half, at);
      hn::Store(Matrix::round_pair(rest(p[i], first), rest(p[i + 1], second)), half, at + 32);
    } else {
      hn::Store(Matrix::round_pair(p[i], p[i + 1]), half, at);
    }
  }
}

// P of a row relative to `max`; their sum.
template <bool kSplit, typename Matrix>
HWY_INLINE float powers_of_row(float* s, int cols, float row_max) {
  const F32 d;
  const VF32 max = hn::Set(d, row_max);
  VF32 sum[2] = {hn::Zero(d), hn::Zero(d)};
  for (int c = 0; c < cols; c += 32) {
    VF32 p[kPiece];
    HWY_UNROLL(8)
    for (int i = 0; i < kPiece; ++i) {
      p[i] = power<kSplit>(hn::Sub(hn::Load(d, s + c + i * kLanes), max));
      sum[i % 2] = hn::Add(sum[i % 2], p[i]);
    }
    store_powers<kSplit, Matrix>(p, s + c);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum[0], sum[1])));
}

// Row r of the part: S, whose maximum is block_max, becomes P; m, l and o follow.
template <bool kSplit, typename Matrix>
HWY_INLINE void softmax_row(const Part& part, int r, int dims, float* s, const Seen& seen,
                            float block_max) {
  if (sees_nothing(s, seen, block_max)) {
    std::memset(s, 0, static_cast<size_t>(seen.cols) * sizeof(float));
    return;
  }
  const F32 d;
  const float old_max = part.m[r];
  const float new_max = std::max(block_max, old_max);
  const float sum = powers_of_row<kSplit, Matrix>(s, seen.cols, new_max);
  if (new_max == old_max) {
    part.l[r] += sum;
    return;
  }
  const VF32 factor = exp2(hn::Set(d, old_max - new_max));
  part.l[r] = part.l[r] * hn::GetLane(factor) + sum;
  part.m[r] = new_max;
  float* o = part.o + static_cast<int64_t>(r) * dims;
  for (int c = 0; c < dims; c += kLanes) {
    hn::Store(hn::Mul(factor, hn::Load(d, o + c)), d, o + c);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
