// The threads of a cluster as a Team (select/bins.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/ptx/cluster.h"

namespace tokensieve::cuda {

template <int kThreads>
struct TeamShared {
  // In turn, so that a scan needs one barrier.
  alignas(16) uint32_t warp_totals[2][kThreads / 32][4];
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

  // The lists `own` of `*size` entries of all ranks, one behind the other; returns their length.
  __device__ __forceinline__ uint32_t concatenate(const uint32_t* own, const uint32_t* size,
                                                  uint32_t* all) const {
    uint32_t begin = 0;
    for (int rank = 0; rank < ranks_; ++rank) {
      const uint32_t count = ranks_ == 1 ? *size : ptx::load_remote(size, rank);
      for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
        all[begin + i] = ranks_ == 1 ? own[i] : ptx::load_remote(own + i, rank);
      }
      begin += count;
    }
    return begin;
  }

  // *where becomes the least of it and every thread's value; read it behind a sync.
  __device__ __forceinline__ void least_of(uint32_t* where, uint32_t value) const {
    value = __reduce_min_sync(~0u, value);
    if (lane() == 0) atomicMin(where, value);
  }

  // Over the CTA, in thread order. All threads call it; T is a sum type of up to 16 bytes.
  template <class T>
  __device__ __forceinline__ T exclusive_scan(const T& own, T* all) {
    const int warp = threadIdx.x / 32;
    uint32_t(*totals)[4] = shared_.warp_totals[turn_];
    turn_ ^= 1;
    const T inside = warp_scan(own);
    if (lane() == 31) *reinterpret_cast<T*>(totals[warp]) = inside;
    __syncthreads();
    T total = {};
    if (lane() < kWarps) total = *reinterpret_cast<const T*>(totals[lane()]);
    const T scanned = warp_scan(total);
    *all = shuffle(scanned, kWarps - 1);
    const T base = shuffle(scanned, max(warp - 1, 0));
    const T before = shuffle_up(inside, 1);
    T sum = {};
    if (warp > 0) sum = base;
    return lane() > 0 ? sum + before : sum;
  }
  __device__ __forceinline__ uint64_t lane_sum(uint64_t x) const {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
  }

 private:
  template <class T>
  static __device__ __forceinline__ T shuffle_up(const T& x, int step) {
    uint32_t words[sizeof(T) / 4];
    memcpy(words, &x, sizeof x);
#pragma unroll
    for (uint32_t& word : words) word = __shfl_up_sync(~0u, word, step);
    T result;
    memcpy(&result, words, sizeof result);
    return result;
  }
  template <class T>
  static __device__ __forceinline__ T shuffle(const T& x, int lane) {
    uint32_t words[sizeof(T) / 4];
    memcpy(words, &x, sizeof x);
#pragma unroll
    for (uint32_t& word : words) word = __shfl_sync(~0u, word, lane);
    T result;
    memcpy(&result, words, sizeof result);
    return result;
  }
  template <class T>
  static __device__ __forceinline__ T warp_scan(T x) {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const T before = shuffle_up(x, step);
      if (threadIdx.x % 32 >= step) x = before + x;
    }
    return x;
  }

  TeamShared<kThreads>& shared_;
  int ranks_;
  int rank_;
  int turn_ = 0;
};

}  // namespace tokensieve::cuda
