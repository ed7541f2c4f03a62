// The two policies of the tile kernels: C (2 x 2 matrix tiles of f32) += A (2 x 1) B (1 x 2), pairs
// of bf16. Both compute the same bits, and so do their roundings of f32.
#if defined(TOKENSIEVE_CPU_TILES_MATRIX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_TILES_MATRIX_INL_H_
#undef TOKENSIEVE_CPU_TILES_MATRIX_INL_H_
#else
#define TOKENSIEVE_CPU_TILES_MATRIX_INL_H_
#endif

#include <bit>
#include <cstring>

#include "cpu/math-inl.h"
#include "cpu/tiles/tiles.h"
#include "hwy/cache_control.h"

// The instructions of the code from here on. The emulation is compiled with them, too, but asks for
// none of them.
#undef TOKENSIEVE_BEFORE_TILES
#if TOKENSIEVE_CPU_AMX && HWY_TARGET <= HWY_AVX3
#define TOKENSIEVE_BEFORE_TILES()                                     \
  HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16,amx-tile,amx-bf16") \
  static_assert(true, "")
#else
#define TOKENSIEVE_BEFORE_TILES() HWY_BEFORE_NAMESPACE()
#endif

TOKENSIEVE_BEFORE_TILES();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

using U32 = hn::RebindToUnsigned<F32>;
using VU32 = hn::Vec<U32>;
using U16 = hn::Repartition<uint16_t, F32>;  // twice the lanes
using VU16 = hn::Vec<U16>;

// x to bf16, to nearest even, in the upper halves of the lanes; the lower are 0. As the instruction
// does it: what is too small for a normal number becomes 0, a NaN stays one.
HWY_INLINE VU32 round_to_bf16(VF32 x) {
  const U32 d;
  const VU32 bits = hn::BitCast(d, x);
  const VU32 exponent = hn::Set(d, 0x7f800000u);
  const VU32 odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
  const VU32 rounded = hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fffu)));
  const auto nan = hn::RebindMask(d, hn::Ne(x, x));
  const auto tiny = hn::Eq(hn::And(bits, exponent), hn::Zero(d));
  const VU32 sign = hn::And(bits, hn::Set(d, 0x80000000u));
  const VU32 quiet = hn::Or(bits, hn::Set(d, 0x400000u));
  const VU32 result = hn::IfThenElse(nan, quiet, hn::IfThenElse(tiny, sign, rounded));
  return hn::And(result, hn::Set(d, 0xffff0000u));
}

// The upper halves of `first`'s and then of `second`'s lanes.
HWY_INLINE VU16 upper_halves(VU32 first, VU32 second) {
  const U16 d;
  return hn::ConcatOdd(d, hn::BitCast(d, second), hn::BitCast(d, first));
}

// Matrix tiles in plain C++, in the order of sums that is documented for TDPBF16PS: even and odd
// terms in two fused sums, which are added, and then added to C; subnormal numbers are 0.
class ScalarTiles {
 public:
  void zero() { std::memset(c_, 0, sizeof(c_)); }
  void load_c(const float* c, int64_t stride) {
    for (int r = 0; r < 32; ++r) std::memcpy(c_[r], c + r * stride, sizeof(c_[r]));
  }
  void store_c(float* c, int64_t stride) const {
    for (int r = 0; r < 32; ++r) std::memcpy(c + r * stride, c_[r], sizeof(c_[r]));
  }
  // Two tiles of 16 rows each, `stride` bytes apart; B's are packed.
  void load_a(const uint16_t* a0, const uint16_t* a1, int64_t stride) {
    a_[0] = a0, a_[1] = a1, a_stride_ = stride / 2;
  }
  void load_b(const uint16_t* b0, const uint16_t* b1) { b_[0] = b0, b_[1] = b1; }
  void multiply() {
    for (int r = 0; r < 32; ++r) {
      const uint16_t* a = a_[r / 16] + r % 16 * a_stride_;
      for (int j = 0; j < 2; ++j) multiply_row(a, b_[j], c_[r] + 16 * j);
    }
  }
  void prefetch(const uint16_t*) const {}
  static VU16 round_pair(VF32 first, VF32 second) {
    return upper_halves(round_to_bf16(first), round_to_bf16(second));
  }

 private:
  static float normal(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    return std::bit_cast<float>((bits & 0x7f800000u) != 0 ? bits : bits & 0x80000000u);
  }
  static float widened(uint16_t x) { return normal(std::bit_cast<float>(uint32_t{x} << 16)); }

  static void multiply_row(const uint16_t* a, const uint16_t* b, float* c) {
    float even[16] = {}, odd[16] = {};
    for (int k = 0; k < 16; ++k, b += 32) {
      const float a0 = widened(a[2 * k]), a1 = widened(a[2 * k + 1]);
      for (int n = 0; n < 16; ++n) {
        even[n] = normal(__builtin_fmaf(a0, widened(b[2 * n]), even[n]));
        odd[n] = normal(__builtin_fmaf(a1, widened(b[2 * n + 1]), odd[n]));
      }
    }
    for (int n = 0; n < 16; ++n) c[n] = normal(normal(c[n]) + normal(even[n] + odd[n]));
  }

  float c_[32][32];
  const uint16_t *a_[2], *b_[2];
  int64_t a_stride_;
};

#if TOKENSIEVE_CPU_AMX && HWY_TARGET <= HWY_AVX3
// The hardware's: C in tiles 0-3, A in 4 and 5, B in 6 and 7. The tile state is in use, and saved
// at context switches, while one of these lives.
class AmxTiles {
 public:
  AmxTiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~AmxTiles() { asm volatile("tilerelease" ::: "memory"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  static HWY_INLINE void zero() {
    asm volatile("tilezero %tmm0\n\ttilezero %tmm1\n\ttilezero %tmm2\n\ttilezero %tmm3");
  }
  static HWY_INLINE void load_c(const float* c, int64_t stride) {
    load<0>(c, stride * 4), load<1>(c + 16, stride * 4);
    load<2>(c + 16 * stride, stride * 4), load<3>(c + 16 * stride + 16, stride * 4);
  }
  static HWY_INLINE void store_c(float* c, int64_t stride) {
    store<0>(c, stride * 4), store<1>(c + 16, stride * 4);
    store<2>(c + 16 * stride, stride * 4), store<3>(c + 16 * stride + 16, stride * 4);
  }
  static HWY_INLINE void load_a(const uint16_t* a0, const uint16_t* a1, int64_t stride) {
    load<4>(a0, stride), load<5>(a1, stride);
  }
  static HWY_INLINE void load_b(const uint16_t* b0, const uint16_t* b1) {
    load<6>(b0, 64), load<7>(b1, 64);
  }
  static HWY_INLINE void multiply() {
    dot<0, 4, 6>(), dot<1, 4, 7>(), dot<2, 5, 6>(), dot<3, 5, 7>();
  }
  static HWY_INLINE void prefetch(const uint16_t* tile) {
    HWY_UNROLL(16)
    for (int i = 0; i < 16; ++i) hwy::Prefetch(tile + 32 * i);
  }
  static HWY_INLINE VU16 round_pair(VF32 first, VF32 second) {
    return VU16{reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second.raw, first.raw))};
  }

 private:
  template <int kTile>
  static HWY_INLINE void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static HWY_INLINE void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kC, int kA, int kB>
  static HWY_INLINE void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
};
#endif

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
