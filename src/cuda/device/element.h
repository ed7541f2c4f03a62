// The type of q, k, v and out, as a value and as a type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace tokensieve::cuda {

enum class Element { kF16, kBF16 };

constexpr int element_bytes(Element) { return 2; }

template <typename T>
struct ElementTag {
  using Type = T;
};

}  // namespace tokensieve::cuda
