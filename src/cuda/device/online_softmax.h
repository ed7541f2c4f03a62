// Softmax over key tiles that arrive one after the other, for the two rows that a thread owns in a
// wgmma accumulator or in m16n8 accumulators of mma.sync side by side: element i is row
// lane / 4 + (i & 2 ? 8 : 0), column 8 * (i / 4) + 2 * (lane % 4) + (i & 1).
#pragma once

#include "cuda/ptx/math.h"

namespace tokensieve::cuda {

struct OnlineSoftmax {
  static constexpr float kSlack = 8.0f;

  // The empty state: a finite maximum, so that fully masked tiles need no special case.
  float max[2] = {-1e30f, -1e30f};
  float sum[2] = {0.0f, 0.0f};  // of this thread's columns; quad_sum() adds the quad's

  // Turns logits into probabilities relative to `max` and returns in `rescale` what earlier results
  // must be multiplied with. Logits times `scale` are in base 2.
  //
  // The maximum follows only when it has grown by more than kSlack: until then results are at most
  // 2^kSlack too large, which f32 sums and 16-bit probabilities bear, and need no rescaling
  // (FlashAttention-4).
  template <int kCount>
  __device__ __forceinline__ void update(float (&s)[kCount], float scale, float (&rescale)[2]) {
    float top[2] = {max[0], max[1]};
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      top[0] = fmaxf(top[0], fmaxf(s[i], s[i + 1]));
      top[1] = fmaxf(top[1], fmaxf(s[i + 2], s[i + 3]));
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      top[row] = fmaxf(top[row], __shfl_xor_sync(~0u, top[row], 1));
      top[row] = fmaxf(top[row], __shfl_xor_sync(~0u, top[row], 2));
      const float growth = (top[row] - max[row]) * scale;
      rescale[row] = 1.0f;
      if (growth > kSlack) {
        rescale[row] = ptx::exp2(-growth);
        max[row] = top[row];
        sum[row] *= rescale[row];
      }
    }
    const float offset[2] = {max[0] * scale, max[1] * scale};
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      s[i] = ptx::exp2(s[i] * scale - offset[0]);
      s[i + 1] = ptx::exp2(s[i + 1] * scale - offset[0]);
      s[i + 2] = ptx::exp2(s[i + 2] * scale - offset[1]);
      s[i + 3] = ptx::exp2(s[i + 3] * scale - offset[1]);
      sum[0] += s[i] + s[i + 1];
      sum[1] += s[i + 2] + s[i + 3];
    }
  }

  __device__ __forceinline__ void quad_sum() {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      sum[row] += __shfl_xor_sync(~0u, sum[row], 1);
      sum[row] += __shfl_xor_sync(~0u, sum[row], 2);
    }
  }
};

}  // namespace tokensieve::cuda
