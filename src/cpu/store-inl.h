// Stores a finished row, which goes straight to its place in the output: stage scatter of a whole
// run.
#if defined(TOKENSIEVE_CPU_STORE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_STORE_INL_H_
#undef TOKENSIEVE_CPU_STORE_INL_H_
#else
#define TOKENSIEVE_CPU_STORE_INL_H_
#endif

#include "cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

void store_row(const float* o, float scale, int dim, DType dtype, void* dst) {
  const F32 d;
  const VF32 factor = hn::Set(d, scale);
  for (int c = 0; c < dim; c += kLanes) {
    const VF32 x = hn::Mul(factor, hn::Load(d, o + c));
    if (dtype == DType::kF32) {
      hn::StoreU(x, d, static_cast<float*>(dst) + c);
    } else if (dtype == DType::kF16) {
      const hn::Rebind<hwy::float16_t, F32> half;
      hn::StoreU(hn::DemoteTo(half, x), half, static_cast<hwy::float16_t*>(dst) + c);
    } else {
      // To nearest even; a NaN keeps its upper bits and stays one.
      const hn::Rebind<uint32_t, F32> wide;
      const hn::Rebind<uint16_t, F32> half;
      const auto bits = hn::BitCast(wide, x);
      const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(wide, 1));
      const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(wide, 0x7fff)));
      const auto nan = hn::RebindMask(wide, hn::Ne(x, x));
      const auto quiet = hn::Or(bits, hn::Set(wide, 0x400000));
      const auto upper = hn::ShiftRight<16>(hn::IfThenElse(nan, quiet, rounded));
      hn::StoreU(hn::TruncateTo(half, upper), half, static_cast<uint16_t*>(dst) + c);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
