// Logits from products of q and k, in base 2.
#pragma once

#include "cuda/params.h"
#include "cuda/ptx/math.h"

namespace tokensieve::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

// Softcap of a product q k, exact to 1e-7: tanh(y) = 1 - 2 r, r = 1 / (1 + e^2y), y = logit /
// softcap.
__device__ __forceinline__ float cap_exponent_scale(const Softmax& softmax) {
  return 2.0f * kLog2e * softmax.sm_scale / softmax.softcap;  // products times it are 2 y in base 2
}
__device__ __forceinline__ float cap_remainder(float product, float exponent_scale) {  // r
  return ptx::reciprocal(1.0f + ptx::exp2(product * exponent_scale));
}
__device__ __forceinline__ float cap_logit(float product, float softcap, float exponent_scale) {
  return softcap - 2.0f * softcap * cap_remainder(product, exponent_scale);
}
// The same over softcap, for who multiplies sums later.
__device__ __forceinline__ float cap_tanh(float product, float exponent_scale) {
  return fmaf(-2.0f, cap_remainder(product, exponent_scale), 1.0f);
}

}  // namespace tokensieve::cuda
