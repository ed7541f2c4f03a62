// wgmma m64nNk16 for f16 and bf16 with f32 accumulators, and shared-memory descriptors.
//
// Tiles lie in shared memory as panels of 64 columns (128 bytes a row) with the 128-byte swizzle:
// chunk c of 16 bytes of row r is at chunk c ^ (r & 7). That is what a TMA box {64, rows} with
// CU_TENSOR_MAP_SWIZZLE_128B writes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/ptx/barrier.h"

namespace tokensieve::cuda::ptx {

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most kPending of this warpgroup's groups are in flight.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Ties registers to this point. wgmma_wait and wgmma_fence do not name them, so without it the
// compiler may read accumulators before the wait, or compute operands after the fence.
template <int kCount>
__device__ __forceinline__ void keep_in_order(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void keep_in_order(uint32_t (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

// Descriptor of a swizzled operand that starts at shared address `address`. K-major operands step
// by 8 rows (1024 bytes); their leading offset is unused. MN-major ones step by `leading` bytes
// from panel to panel.
__device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t leading) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) |
         static_cast<uint64_t>(leading >> 4) << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

// The accumulators' places in the instruction's text, and the operands that fill them.
#define TOKENSIEVE_PLACES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define TOKENSIEVE_PLACES_32                                                              \
  TOKENSIEVE_PLACES_8                                                                     \
  ", %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, " \
  "%25, %26, %27, %28, %29, %30, %31"
#define TOKENSIEVE_PLACES_64                                                        \
  TOKENSIEVE_PLACES_32                                                              \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "   \
  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TOKENSIEVE_PLACES_128                                                             \
  TOKENSIEVE_PLACES_64                                                                    \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "    \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, " \
  "%97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "     \
  "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "  \
  "%125, %126, %127"

#define TOKENSIEVE_EIGHT(i)                                                             \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]),           \
      "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define TOKENSIEVE_THIRTY_TWO(i) \
  TOKENSIEVE_EIGHT(i), TOKENSIEVE_EIGHT(i + 8), TOKENSIEVE_EIGHT(i + 16), TOKENSIEVE_EIGHT(i + 24)
#define TOKENSIEVE_ACCUMULATORS_8 TOKENSIEVE_EIGHT(0)
#define TOKENSIEVE_ACCUMULATORS_32 TOKENSIEVE_THIRTY_TWO(0)
#define TOKENSIEVE_ACCUMULATORS_64 TOKENSIEVE_ACCUMULATORS_32, TOKENSIEVE_THIRTY_TWO(32)
#define TOKENSIEVE_ACCUMULATORS_128 \
  TOKENSIEVE_ACCUMULATORS_64, TOKENSIEVE_THIRTY_TWO(64), TOKENSIEVE_THIRTY_TWO(96)

template <typename T, int kN>
struct Wgmma;

// n columns, `count` = n / 2 accumulators a thread; p1..p4: the next numbers, places of the inputs.
//   ss: d = a b (kAccumulate 0) or d += a b; A and B from shared memory, both K-major.
//   rs: d += a b; A in registers, B MN-major.
#define TOKENSIEVE_WGMMA(T, type, n, count, p1, p2, p3, p4)                                    \
  template <>                                                                                  \
  struct Wgmma<T, n> {                                                                         \
    template <int kAccumulate>                                                                 \
    static __device__ __forceinline__ void ss(float (&d)[count], uint64_t a, uint64_t b) {     \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type             \
                   " {" TOKENSIEVE_PLACES_##count "}, %" #count ", %" #p1 ", %" #p2            \
                   ", 1, 1, 0, 0;"                                                             \
                   : TOKENSIEVE_ACCUMULATORS_##count                                           \
                   : "l"(a), "l"(b), "n"(kAccumulate));                                        \
    }                                                                                          \
    static __device__ __forceinline__ void rs(float (&d)[count], const uint32_t* a,            \
                                              uint64_t b) {                                    \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type             \
                   " {" TOKENSIEVE_PLACES_##count "}, {%" #count ", %" #p1 ", %" #p2 ", %" #p3 \
                   "}, %" #p4 ", 1, 1, 1, 1;"                                                  \
                   : TOKENSIEVE_ACCUMULATORS_##count                                           \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                      \
    }                                                                                          \
  };
#define TOKENSIEVE_WGMMA_BOTH(...)                      \
  TOKENSIEVE_WGMMA(__nv_bfloat16, "bf16", __VA_ARGS__) \
  TOKENSIEVE_WGMMA(__half, "f16", __VA_ARGS__)

TOKENSIEVE_WGMMA_BOTH(16, 8, 9, 10, 11, 12)
TOKENSIEVE_WGMMA_BOTH(64, 32, 33, 34, 35, 36)
TOKENSIEVE_WGMMA_BOTH(128, 64, 65, 66, 67, 68)
TOKENSIEVE_WGMMA_BOTH(256, 128, 129, 130, 131, 132)

#undef TOKENSIEVE_WGMMA_BOTH
#undef TOKENSIEVE_WGMMA
#undef TOKENSIEVE_ACCUMULATORS_128
#undef TOKENSIEVE_ACCUMULATORS_64
#undef TOKENSIEVE_ACCUMULATORS_32
#undef TOKENSIEVE_ACCUMULATORS_8
#undef TOKENSIEVE_THIRTY_TWO
#undef TOKENSIEVE_EIGHT
#undef TOKENSIEVE_PLACES_128
#undef TOKENSIEVE_PLACES_64
#undef TOKENSIEVE_PLACES_32
#undef TOKENSIEVE_PLACES_8

}  // namespace tokensieve::cuda::ptx
