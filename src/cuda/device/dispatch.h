// The only place where element type and head_dim become template arguments. A head_dim that is
// added here needs tile sizes (sm90/*/traits.h) and instantiations (sm90/*/instantiations).
#pragma once

#include <cuda_runtime_api.h>

#include <type_traits>

#include "cuda/device/element.h"

namespace tokensieve::cuda {

inline constexpr int kHeadDims[] = {64, 128, 256};

template <int kValue>
using Int = std::integral_constant<int, kValue>;

// f(ElementTag<T>{}, Int<head_dim>{}); cudaErrorInvalidValue for any other head_dim.
template <int kIndex = 0, typename T, typename F>
cudaError_t dispatch_head_dim(ElementTag<T> element, int head_dim, F&& f) {
  if constexpr (kIndex < std::extent_v<decltype(kHeadDims)>) {
    if (head_dim == kHeadDims[kIndex]) return f(element, Int<kHeadDims[kIndex]>{});
    return dispatch_head_dim<kIndex + 1>(element, head_dim, f);
  } else {
    return cudaErrorInvalidValue;
  }
}
template <typename F>
cudaError_t dispatch(Element element, int head_dim, F&& f) {
  switch (element) {
    case Element::kF16:
      return dispatch_head_dim(ElementTag<__half>{}, head_dim, f);
    case Element::kBF16:
      return dispatch_head_dim(ElementTag<__nv_bfloat16>{}, head_dim, f);
  }
  return cudaErrorInvalidValue;
}

}  // namespace tokensieve::cuda
