// Body of attend_instance: what an instantiation file compiles.
#pragma once

#include "cuda/keys/causal.h"
#include "cuda/keys/limited.h"
#include "cuda/keys/window.h"
#include "cuda/sm90/attend/kernel.h"

namespace tokensieve::cuda::sm90 {

template <typename T, int kHeadDim, class Visible>
cudaError_t launch_keys(const AttendParams& params, cudaStream_t stream) {
  return params.softmax.softcap > 0.0f
             ? launch_attend<Traits<T, kHeadDim, Visible, true>>(params, stream)
             : launch_attend<Traits<T, kHeadDim, Visible, false>>(params, stream);
}

template <typename T, int kHeadDim>
cudaError_t attend_instance(const AttendParams& params, Keys keys, cudaStream_t stream) {
  switch (keys) {
    case Keys::kCausal:
      return launch_keys<T, kHeadDim, CausalKeys>(params, stream);
    case Keys::kWindow:
      return launch_keys<T, kHeadDim, WindowKeys>(params, stream);
    case Keys::kLimited:
      return launch_keys<T, kHeadDim, LimitedKeys>(params, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace tokensieve::cuda::sm90
