// Body of attend_instance: what an instantiation file compiles.
#pragma once

#include "cuda/keys/causal.h"
#include "cuda/keys/limited.h"
#include "cuda/keys/window.h"
#include "cuda/sm90/attend/kernel.h"

namespace tokensieve::cuda::sm90 {

template <typename T, int kHeadDim, class Visible>
cudaError_t launch_keys(const AttendArguments& arguments, cudaStream_t stream) {
  return arguments.params.softmax.softcap > 0.0f
             ? launch_attend<Traits<T, kHeadDim, Visible, true>>(arguments, stream)
             : launch_attend<Traits<T, kHeadDim, Visible, false>>(arguments, stream);
}

template <typename T, int kHeadDim, class Visible>
cudaError_t launch_masked(const AttendArguments& arguments, cudaStream_t stream) {
  return arguments.params.blocks.visits != nullptr
             ? launch_keys<T, kHeadDim, BlockKeys<Visible>>(arguments, stream)
             : launch_keys<T, kHeadDim, Visible>(arguments, stream);
}

template <typename T, int kHeadDim>
cudaError_t attend_instance(const AttendArguments& arguments, Keys keys, cudaStream_t stream) {
  switch (keys) {
    case Keys::kCausal:
      return launch_masked<T, kHeadDim, CausalKeys>(arguments, stream);
    case Keys::kWindow:
      return launch_keys<T, kHeadDim, WindowKeys>(arguments, stream);
    case Keys::kLimited:
      return launch_masked<T, kHeadDim, LimitedKeys>(arguments, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace tokensieve::cuda::sm90
