// TMA tile loads: one instruction per wrapper.
#pragma once

#include <cuda.h>

#include "cuda/sm90/ptx/mbarrier.h"

namespace tokensieve::cuda::ptx {

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// One box of a 4D map at (x, y, z, w), innermost first; completes on `barrier`. Rows outside the
// tensor read as 0.
__device__ __forceinline__ void tma_load_4d(void* shared, const CUtensorMap* map,
                                            uint64_t* barrier, int x, int y, int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

}  // namespace tokensieve::cuda::ptx
