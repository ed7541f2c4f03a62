// Body of attend_instance: what an instantiation file compiles.
#pragma once

#include "cuda/sm90/attend/kernel.h"

namespace tokensieve::cuda::sm90 {

template <typename Element, int kHeadDim, Keys kKeys>
cudaError_t launch_keys(const AttendParams& params, cudaStream_t stream) {
  return params.softmax.softcap > 0.0f
             ? launch_attend<Traits<Element, kHeadDim, kKeys, true>>(params, stream)
             : launch_attend<Traits<Element, kHeadDim, kKeys, false>>(params, stream);
}

template <typename Element, int kHeadDim>
cudaError_t attend_instance(const AttendParams& params, Keys keys, cudaStream_t stream) {
  switch (keys) {
    case Keys::kCausal:
      return launch_keys<Element, kHeadDim, Keys::kCausal>(params, stream);
    case Keys::kWindow:
      return launch_keys<Element, kHeadDim, Keys::kWindow>(params, stream);
    case Keys::kLimited:
      return launch_keys<Element, kHeadDim, Keys::kLimited>(params, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace tokensieve::cuda::sm90
