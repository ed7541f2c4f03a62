// Search in ascending tokens.
#pragma once

#include <cstdint>

namespace tokensieve::cuda {

// First of `count` ascending indices that is >= token.
__device__ __forceinline__ int lower_bound(const int32_t* indices, int count, int token) {
  int low = 0;
  int high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (indices[middle] < token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace tokensieve::cuda
