// Vector math shared by the kernels: loads of any dtype, 2^x, tanh of a logit, a transposition.
#if defined(TOKENSIEVE_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_MATH_INL_H_
#undef TOKENSIEVE_CPU_MATH_INL_H_
#else
#define TOKENSIEVE_CPU_MATH_INL_H_
#endif

#include "cpu/kernels.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using VF32 = hn::Vec<F32>;
constexpr int kLanes = hn::MaxLanes(F32());

// Microkernel shape: 32 registers hold 6 x 4 accumulators, 16 hold 6 x 2 (measured: 97 % of the
// FMA peak each).
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif
constexpr int kPanelCols = kVectors * kLanes;
static_assert(kPanelKeys % kPanelCols == 0);

HWY_INLINE VF32 load_f16(const uint16_t* HWY_RESTRICT from) {
  const F32 d;
#if HWY_TARGET <= HWY_AVX2 || HWY_ARCH_ARM_A64
  const hn::Rebind<hwy::float16_t, F32> half;
  return hn::PromoteTo(d, hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(from)));
#else
  // Highway's emulation reads inf as 65536. Shifting the magnitude into place and scaling by 2^112
  // is exact for subnormals too; inf and NaN keep the largest exponent.
  const hn::Rebind<uint16_t, F32> half;
  const hn::Rebind<uint32_t, F32> wide;
  const auto bits = hn::PromoteTo(wide, hn::LoadU(half, from));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(wide, 0x8000u)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(wide, 0x7fffu)));
  const auto finite =
      hn::BitCast(wide, hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f)));
  const auto special = hn::Or(magnitude, hn::Set(wide, 0x7f800000u));
  const auto is_special = hn::Gt(magnitude, hn::Set(wide, 0x0f7fffffu));
  return hn::BitCast(d, hn::Or(sign, hn::IfThenElse(is_special, special, finite)));
#endif
}

template <DType kDType>
HWY_INLINE VF32 load(const char* row, int column) {
  const F32 d;
  if constexpr (kDType == DType::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(row) + column);
  } else if constexpr (kDType == DType::kF16) {
    return load_f16(reinterpret_cast<const uint16_t*>(row) + column);
  } else {
    const hn::Rebind<uint16_t, F32> half;
    const hn::Rebind<uint32_t, F32> wide;
    const auto bits = hn::LoadU(half, reinterpret_cast<const uint16_t*>(row) + column);
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(wide, bits)));
  }
}

// Calls body.operator()<dtype>() for a run-time dtype.
template <typename F>
HWY_INLINE void for_dtype(DType dtype, F&& body) {
  switch (dtype) {
    case DType::kF32: return body.template operator()<DType::kF32>();
    case DType::kF16: return body.template operator()<DType::kF16>();
    case DType::kBF16: return body.template operator()<DType::kBF16>();
  }
}

// 2^x to 2e-7 relative (degree 3: 7.5e-5); 0 far below, inf far above, NaN for NaN.
template <int kDegree = 5>
HWY_INLINE VF32 exp2(VF32 x) {
  const F32 d;
#if HWY_TARGET <= HWY_AVX3
  const VF32 n = VF32{_mm512_roundscale_ps(x.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
#else
  // The exponent is built in integers: keep it within range.
  const VF32 whole = x;
  x = hn::Min(hn::Set(d, 127.0f), hn::Max(hn::Set(d, -126.0f), x));
  const VF32 n = hn::Round(x);
#endif
  const VF32 f = hn::Sub(x, n);
  VF32 p;
  const auto next = [&](float c) { p = hn::MulAdd(p, f, hn::Set(d, c)); };
  if constexpr (kDegree == 3) {  // minimax on [-1/2, 1/2]
    p = hn::Set(d, 5.517167e-2f);
    next(2.4261114e-1f), next(6.9326099e-1f), next(9.9992807e-1f);
  } else {  // the same with p(0) = 1: 9.2e-8 relative
    static_assert(kDegree == 5);
    p = hn::Set(d, 1.326472731e-3f);
    next(9.671512991e-3f), next(5.550733581e-2f), next(2.402224243e-1f), next(6.931470037e-1f);
    next(1.0f);
  }
#if HWY_TARGET <= HWY_AVX3
  return VF32{_mm512_scalef_ps(p.raw, n.raw)};
#else
  const hn::RebindToSigned<F32> di;
  const VF32 power =
      hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127))));
  const VF32 result = hn::Mul(p, power);
  const VF32 flushed = hn::IfThenZeroElse(hn::Lt(whole, hn::Set(d, -126.0f)), result);
  return hn::IfThenElse(hn::Eq(whole, whole), flushed, whole);  // NaN stays NaN
#endif
}

// softcap * tanh(x), where y = 2 log2(e) x is what the product gives (q_scale holds the factor).
HWY_INLINE VF32 cap_logit(VF32 y, VF32 softcap) {
  const F32 d;
  const VF32 one = hn::Set(d, 1.0f);
  const VF32 two = hn::Set(d, 2.0f);
  const VF32 tanh = hn::Sub(one, hn::Div(two, hn::Add(exp2(y), one)));
  return hn::Mul(softcap, tanh);
}

#if HWY_TARGET <= HWY_AVX3
// 16 x 16 in registers; Highway 1.0.3 has no transpose.
HWY_INLINE void transpose(__m512 r[16]) {
  __m512 t[16];
  HWY_UNROLL(8)
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  HWY_UNROLL(4)
  for (int i = 0; i < 16; i += 4) {
    const __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]);
    const __m512d c = _mm512_castps_pd(t[i + 2]), e = _mm512_castps_pd(t[i + 3]);
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, e));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, e));
  }
  HWY_UNROLL(2)
  for (int h = 0; h < 16; h += 8) {
    HWY_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
      t[h + i] = _mm512_shuffle_f32x4(r[h + i], r[h + 4 + i], 0x88);
      t[h + 4 + i] = _mm512_shuffle_f32x4(r[h + i], r[h + 4 + i], 0xdd);
    }
  }
  HWY_UNROLL(8)
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
    r[8 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
  }
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
