// Scores as integers: their sums do not depend on the order of threads.
//
// This and its neighbours (bins.h, threshold.h, words.h, rule.h, steps.h) are written so that the
// host runs the same source (tests/cuda/select_host_test.cc).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define TOKENSIEVE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TOKENSIEVE_HOST_DEVICE inline
#endif

namespace tokensieve::cuda {

TOKENSIEVE_HOST_DEVICE uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
TOKENSIEVE_HOST_DEVICE float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Bits that x needs.
TOKENSIEVE_HOST_DEVICE int bits_of(uint32_t x) {
#ifdef __CUDA_ARCH__
  return 32 - __clz(static_cast<int>(x));
#else
  return static_cast<int>(std::bit_width(x));
#endif
}

// Rounds a finite value to bf16, nearest even.
TOKENSIEVE_HOST_DEVICE float to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  return bits_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

// Scores are >= 0, so their bits order as they do.
TOKENSIEVE_HOST_DEVICE uint32_t score_key(float x) { return float_bits(x) & 0x7fffffffu; }

// 2^48 times the value of a key, rounded: rows that sum to less than 2^14 in 64 bits with room to
// spare, the same in any order. Scores of a softmax sum to 1.
inline constexpr double kFixedOne = 281474976710656.0;
TOKENSIEVE_HOST_DEVICE uint64_t fixed_point(uint32_t key) {
  constexpr uint32_t kLargest = 0x477fffffu;  // the float below 65536
  if (key > kLargest) key = kLargest;
  const int shift = static_cast<int>(key >> 23) - 150 + 48;
  const uint64_t mantissa = (key & 0x7fffffu) | 0x800000u;
  if (shift >= 0) return mantissa << shift;
  if (shift < -25) return 0;  // subnormal values too
  return (mantissa + (uint64_t{1} << (-shift - 1))) >> -shift;
}

// How the scores of a row are normalised before they are ranked or budgeted.
struct Normaliser {
  bool divide;  // reference rounding: bf16(x / bf16(bf16(sum) + 1e-8))
  float divisor;

  TOKENSIEVE_HOST_DEVICE static Normaliser of_sum(uint64_t sum) {
    const float total = static_cast<float>(sum) * static_cast<float>(1.0 / kFixedOne);
    return {true, to_bf16(to_bf16(total) + 1e-8f)};
  }
  TOKENSIEVE_HOST_DEVICE uint32_t key(float x) const {
    return score_key(divide ? to_bf16(x / divisor) : x);
  }
};

// The tau rule on a row: mass below this stays droppable (fixed point). `sum`: of the row; in
// reference rounding the row is normalised already.
TOKENSIEVE_HOST_DEVICE uint64_t mass_limit(double tau, uint64_t sum, bool reference) {
  const double limit = reference
                           ? static_cast<double>(static_cast<float>(tau)) * kFixedOne
                           : tau * (static_cast<double>(sum) + 1e-8 * kFixedOne);
  return static_cast<uint64_t>(ceil(limit));
}

// What the smooth kernel finds out about a row, in parts that merge in any order.
struct RowSummary {
  uint64_t sum;  // fixed point
  uint32_t least, most;  // keys

  TOKENSIEVE_HOST_DEVICE static RowSummary empty() { return {0, 0xffffffffu, 0}; }
  TOKENSIEVE_HOST_DEVICE void add(const RowSummary& other) {
    sum += other.sum;
    least = other.least < least ? other.least : least;
    most = other.most > most ? other.most : most;
  }
};

}  // namespace tokensieve::cuda
