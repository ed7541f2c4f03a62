// TMA tile loads and cp.async: one instruction per wrapper.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/ptx/barrier.h"

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

// 16 bytes, both sides 16-byte aligned; writes zeros unless `valid` (then the source is not read).
__device__ __forceinline__ void copy_async_16(uint32_t shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_async_wait_all() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

}  // namespace tokensieve::cuda::ptx
