// Stages of shared memory that are filled and emptied in turn.
#pragma once

#include <cstdint>

namespace tokensieve::cuda::sm90 {

// Position in a ring of kStages: which slot, and which parity its phase has.
template <int kStages>
struct RingPosition {
  int slot = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void advance() {
    if (++slot == kStages) {
      slot = 0;
      phase ^= 1;
    }
  }
  // Position in a ring of twice as many slots.
  __device__ __forceinline__ int slot_of_two_rounds() const { return slot + phase * kStages; }
};

// The same for step `step` of one pass, in a ring whose tiles arrive on kBarriers barriers in turn.
template <int kStages, int kBarriers>
struct RingStep {
  int slot;
  int barrier;
  uint32_t phase;
  __device__ __forceinline__ explicit RingStep(int step)
      : slot(step % kStages), barrier(step % kBarriers), phase(step / kBarriers & 1) {}
};

}  // namespace tokensieve::cuda::sm90
