// The threads of a cluster as a Team (cuda/budget.h).
#pragma once

#include "cuda/budget.h"
#include "cuda/ptx/cluster.h"

namespace tokensieve::cuda {

template <int kThreads>
struct TeamShared {
  BinTotals warp_totals[2][kThreads / 32];  // in turn, so that a scan needs one barrier
};

template <int kThreads>
class BlockTeam {
 public:
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kMaxRanks = 8;
  static_assert(kWarps <= 32);

  __device__ __forceinline__ explicit BlockTeam(TeamShared<kThreads>& shared)
      : shared_(shared), ranks_(ptx::cluster_size()), rank_(ptx::cluster_rank()) {}

  __device__ __forceinline__ int thread() const { return threadIdx.x; }
  __device__ __forceinline__ int threads() const { return kThreads; }
  __device__ __forceinline__ int lane() const { return threadIdx.x % 32; }
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
  // Sum of a shared variable over the cluster.
  __device__ __forceinline__ uint64_t total(const uint32_t* where) const {
    if (ranks_ == 1) return *where;
    uint32_t parts[kMaxRanks];
#pragma unroll
    for (int rank = 0; rank < kMaxRanks; ++rank) {
      parts[rank] = rank < ranks_ ? ptx::load_remote(where, rank) : 0;
    }
    uint64_t sum = 0;
#pragma unroll
    for (int rank = 0; rank < kMaxRanks; ++rank) sum += parts[rank];
    return sum;
  }
  // The same over the ranks before this one.
  __device__ __forceinline__ uint32_t total_before(const uint32_t* where) const {
    uint32_t sum = 0;
    for (int rank = 0; rank < rank_; ++rank) sum += ptx::load_remote(where, rank);
    return sum;
  }

  // Over the CTA, in thread order. All threads call it.
  __device__ __forceinline__ BinTotals exclusive_scan(const BinTotals& own, BinTotals* all) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    BinTotals* totals = shared_.warp_totals[turn_];
    turn_ ^= 1;
    const BinTotals inside = warp_scan(own);
    if (lane == 31) totals[warp] = inside;
    __syncthreads();
    const BinTotals total = lane < kWarps ? totals[lane] : BinTotals{0, 0};
    const BinTotals scanned = warp_scan(total);
    *all = {__shfl_sync(~0u, scanned.count, 31), __shfl_sync(~0u, scanned.mass, 31)};
    return {__shfl_sync(~0u, scanned.count - total.count, warp) + inside.count - own.count,
            __shfl_sync(~0u, scanned.mass - total.mass, warp) + inside.mass - own.mass};
  }
  __device__ __forceinline__ uint64_t lane_sum(uint64_t x) const {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
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
  int turn_ = 0;
};

}  // namespace tokensieve::cuda
