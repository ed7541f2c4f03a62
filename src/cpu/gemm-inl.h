// The microkernel under score and attend: C (+)= A B with C in registers.
#if defined(TOKENSIEVE_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_GEMM_INL_H_
#undef TOKENSIEVE_CPU_GEMM_INL_H_
#else
#define TOKENSIEVE_CPU_GEMM_INL_H_
#endif

#include "cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

// C [kRows][kVecs * lanes] (=, or += if kAccumulate) A [kRows][depth] B [depth][kVecs * lanes].
// A is row-major and read by broadcast, so that neither q nor P needs packing.
template <int kRows, int kVecs, bool kAccumulate>
HWY_INLINE void gemm(const float* HWY_RESTRICT a, int64_t a_stride, const float* HWY_RESTRICT b,
                     int64_t b_stride, float* HWY_RESTRICT c, int64_t c_stride, int depth) {
  const F32 d;
  VF32 sum[kRows][kVecs];
  HWY_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (int j = 0; j < kVecs; ++j) {
      sum[i][j] = kAccumulate ? hn::LoadU(d, c + i * c_stride + j * kLanes) : hn::Zero(d);
    }
  }
  for (int k = 0; k < depth; ++k) {
    VF32 column[kVecs];
    HWY_UNROLL(4)
    for (int j = 0; j < kVecs; ++j) column[j] = hn::Load(d, b + j * kLanes);
    HWY_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      const VF32 x = hn::Set(d, a[i * a_stride + k]);
      HWY_UNROLL(4)
      for (int j = 0; j < kVecs; ++j) sum[i][j] = hn::MulAdd(x, column[j], sum[i][j]);
    }
    b += b_stride;
  }
  HWY_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (int j = 0; j < kVecs; ++j) hn::StoreU(sum[i][j], d, c + i * c_stride + j * kLanes);
  }
}

// Rows of the next microkernel call when `left` rows are left: 6, or 4 at the end. That may be up
// to three rows too many; buffers are padded by kRowPadding.
HWY_INLINE int next_rows(int left) { return left <= 4 ? 4 : 6; }
static_assert(kRowPadding >= 3);

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
