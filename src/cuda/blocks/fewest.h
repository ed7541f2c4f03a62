// The fewest tiles that hold a share of a row tile's mass, besides those that are visited anyway.
#pragma once

#include "cuda/blocks/rules.h"
#include "cuda/select/bins.h"
#include "cuda/select/words.h"

namespace tokensieve::cuda {

#ifdef __CUDACC__
// The lanes of a warp; the host's are one.
struct WarpLanes {
  static constexpr int kCount = 32;
  __device__ __forceinline__ int lane() const { return threadIdx.x % 32; }
  __device__ __forceinline__ uint64_t sum(uint64_t x) const {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
  }
};
#endif

// Visited: others above `key`, and the first `ties` equal to it.
struct FewestTiles {
  uint32_t key;
  uint32_t ties;
};

// Mass of the others of at least `least`.
template <class Lanes, class Others>
TOKENSIEVE_HOST_DEVICE uint64_t mass_from(const Lanes& lanes, const Others& others, int tiles,
                                          uint32_t least) {
  uint64_t mass = 0;
  for (int c = lanes.lane(); c < tiles; c += Lanes::kCount) {
    const uint32_t key = others.key(c);
    if (key != kNoKey && key >= least) mass += fixed_point(key);
  }
  return lanes.sum(mass);
}

// `others`: key(c) of those tiles among `tiles` that are not forced, kNoKey of the rest;
// others.sums[c] of all. Sums are finite.
template <class Lanes, class Others>
TOKENSIEVE_HOST_DEVICE FewestTiles fewest_tiles(const Lanes& lanes, const Others& others,
                                                int tiles, double threshold) {
  uint64_t total = 0;
  uint64_t forced = 0;
  for (int c = lanes.lane(); c < tiles; c += Lanes::kCount) {
    const uint64_t mass = fixed_point(score_key(others.sums[c]));
    total += mass;
    forced += others.key(c) == kNoKey ? mass : 0;
  }
  total = lanes.sum(total);
  forced = lanes.sum(forced);
  const uint64_t rest = rest_of(total, threshold);
  const uint64_t required = total > rest ? total - rest : 0;
  if (forced >= required) return {0x80000000u, 0};
  const uint64_t needed = required - forced;  // no more than the others' mass
  uint32_t key = 0;         // others from here on hold it
  uint32_t above = 0x7f800000u;  // from here on they do not
  while (above - key > 1) {
    const uint32_t middle = key + (above - key) / 2;
    if (mass_from(lanes, others, tiles, middle) >= needed) {
      key = middle;
    } else {
      above = middle;
    }
  }
  const uint64_t missing = needed - mass_from(lanes, others, tiles, above);
  const uint64_t own = fixed_point(key);
  return {key, static_cast<uint32_t>((missing + own - 1) / own)};
}

}  // namespace tokensieve::cuda
