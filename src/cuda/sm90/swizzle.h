// The 128-byte swizzle of tiles in shared memory: panels of 64 columns, see ptx/wgmma.h.
#pragma once

#include <cstdint>

namespace tokensieve::cuda::sm90 {

// Byte offset of 16-byte chunk `chunk` of row `row` in a tile of `rows` rows.
__device__ __forceinline__ uint32_t swizzled(int row, int chunk, int rows) {
  return (chunk >> 3) * (rows * 128) + row * 128 + (((chunk & 7) ^ (row & 7)) << 4);
}

}  // namespace tokensieve::cuda::sm90
