// cp.async: one instruction per wrapper.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.h"

namespace tokensieve::cuda::ptx {

// 16 bytes, both sides 16-byte aligned; writes zeros unless `valid` (then the source is not read).
__device__ __forceinline__ void copy_async_16(uint32_t shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_async_wait_all() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
// Groups of copies: closes one; waits until at most kPending of this thread's are in flight.
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace tokensieve::cuda::ptx
