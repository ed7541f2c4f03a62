// The threads of a cluster as a Team (cuda/budget.h).
#pragma once

#include "cuda/budget.h"
#include "cuda/ptx/cluster.h"

namespace tokensieve::cuda {

template <int kThreads>
struct TeamShared {
  BinTotals warp_totals[kThreads / 32 + 1];
};

template <int kThreads>
class BlockTeam {
 public:
  static constexpr int kWarps = kThreads / 32;
  static_assert(kWarps <= 32);

  __device__ __forceinline__ explicit BlockTeam(TeamShared<kThreads>& shared)
      : shared_(shared), ranks_(ptx::cluster_size()), rank_(ptx::cluster_rank()) {}

  __device__ __forceinline__ int thread() const { return threadIdx.x; }
  __device__ __forceinline__ int threads() const { return kThreads; }
  __device__ __forceinline__ int ranks() const { return ranks_; }
  __device__ __forceinline__ int rank() const { return rank_; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ void cluster_sync() const {
    if (ranks_ == 1) {
      __syncthreads();
    } else {
      ptx::cluster_sync();
    }
  }
  __device__ __forceinline__ uint32_t add(uint32_t* where, uint32_t value) const {
    return atomicAdd(where, value);
  }
  __device__ __forceinline__ uint32_t read(const uint32_t* where, int rank) const {
    return ranks_ == 1 ? *where : ptx::load_remote(where, rank);
  }

  // Over the CTA, in thread order. All threads call it.
  __device__ __forceinline__ BinTotals exclusive_scan(const BinTotals& own, BinTotals* all) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const BinTotals inside = warp_scan(own);
    if (lane == 31) shared_.warp_totals[warp] = inside;
    __syncthreads();
    if (warp == 0) {
      const BinTotals total = lane < kWarps ? shared_.warp_totals[lane] : BinTotals{0, 0};
      const BinTotals scanned = warp_scan(total);
      if (lane < kWarps) {
        shared_.warp_totals[lane] = {scanned.count - total.count, scanned.mass - total.mass};
      }
      if (lane == 31) shared_.warp_totals[kWarps] = scanned;
    }
    __syncthreads();
    *all = shared_.warp_totals[kWarps];
    const BinTotals base = shared_.warp_totals[warp];
    const BinTotals before = {base.count + inside.count - own.count,
                              base.mass + inside.mass - own.mass};
    __syncthreads();  // warp_totals may be written again
    return before;
  }

 private:
  static __device__ __forceinline__ BinTotals warp_scan(BinTotals x) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t count = __shfl_up_sync(~0u, x.count, step);
      const uint64_t mass = __shfl_up_sync(~0u, x.mass, step);
      if (lane >= step) x = {x.count + count, x.mass + mass};
    }
    return x;
  }

  TeamShared<kThreads>& shared_;
  int ranks_;
  int rank_;
};

}  // namespace tokensieve::cuda
