// Histograms of keys, and short lists of them: the steps of threshold.h's searches.
//
// A Team is the group of threads that works on one row: BlockTeam on the device, others in tests.
#pragma once

#include "cuda/select/fixed_point.h"

namespace tokensieve::cuda {

// Bins of one step of a search: keys from `first` to `last`, 1 << shift keys each from `low` on;
// the outer bins take what lies below and above.
struct BinRange {
  uint32_t first, last;
  uint32_t low;
  int shift;
  int top;  // last bin

  TOKENSIEVE_HOST_DEVICE int bin(uint32_t key) const {
    const uint32_t at = (key > low ? key - low : 0) >> shift;
    return at < static_cast<uint32_t>(top) ? static_cast<int>(at) : top;
  }
  TOKENSIEVE_HOST_DEVICE uint32_t least(int bin) const {
    return bin == 0 ? first : low + (static_cast<uint32_t>(bin) << shift);
  }
  TOKENSIEVE_HOST_DEVICE uint32_t most(int bin) const {
    return bin == top ? last : low + (static_cast<uint32_t>(bin + 1) << shift) - 1;
  }
};

inline constexpr int kBinBits = 11;
inline constexpr int kMaxBins = 1 << kBinBits;
inline constexpr int kMassBinBits = 9;  // where masses are summed as well
inline constexpr int kMassBins = 1 << kMassBinBits;
inline constexpr uint32_t kMaxList = 128;  // so few keys are ranked one against the other
inline constexpr uint32_t kNoBin = 0xffffffffu;

// Fine bins for keys from low to high inside [first, last]. bf16 keys are multiples of 1 << 16.
TOKENSIEVE_HOST_DEVICE BinRange bin_range(uint32_t first, uint32_t last, uint32_t low,
                                          uint32_t high, bool bf16_keys, int bin_bits) {
  if (low >= high) {
    low = first;
    high = last;
  }
  BinRange range = {first, last, low, bf16_keys ? 16 : 0, 0};
  const int shift = bits_of(high - low) - bin_bits;
  if (shift > range.shift) range.shift = shift;
  range.top = static_cast<int>((high - low) >> range.shift);
  return range;
}
TOKENSIEVE_HOST_DEVICE BinRange bin_range(uint32_t first, uint32_t last, bool bf16_keys,
                                          int bin_bits) {
  return bin_range(first, last, first, last, bf16_keys, bin_bits);
}

// First step: 16 octaves around the mean of a row that sums to 1, where nearly all scores are.
// Finer bins there mean fewer threads that add to the same one.
TOKENSIEVE_HOST_DEVICE BinRange first_range(uint32_t least, uint32_t most, int64_t row_length,
                                            bool bf16_keys) {
  // Of about 1 / row_length.
  const uint32_t exponent = 128 - static_cast<uint32_t>(bits_of(static_cast<uint32_t>(row_length)));
  const uint32_t low = (exponent - 12) << 23;
  const uint32_t high = (exponent + 4) << 23;
  return bin_range(least, most, least > low ? least : low, most < high ? most : high, bf16_keys,
                   kBinBits);
}

TOKENSIEVE_HOST_DEVICE bool single_key(const BinRange& range, bool bf16_keys) {
  return (range.last - range.first) >> (bf16_keys ? 16 : 0) == 0;
}

struct BinTotals {
  uint64_t mass;
  uint64_t count;
};
TOKENSIEVE_HOST_DEVICE BinTotals operator+(const BinTotals& a, const BinTotals& b) {
  return {a.mass + b.mass, a.count + b.count};
}

// Bounds of a mass that counts and bins give.
struct MassBounds {
  uint32_t count;
  float least;
  float most;
};
TOKENSIEVE_HOST_DEVICE MassBounds operator+(const MassBounds& a, const MassBounds& b) {
  return {a.count + b.count, a.least + b.least, a.most + b.most};
}

// Shared memory of a search.
struct SearchBins {
  // This CTA's keys. Two histograms in turn: a neighbour in the cluster may still read the last.
  uint32_t count[2][kMaxBins];
  uint32_t mass_low[2][kMassBins];  // of 64-bit sums; carries are added by hand, because 64-bit
  uint32_t mass_high[2][kMassBins]; // shared atomics are slow
  uint32_t below_low[2], below_high[2];  // mass of the keys below the range
  // The cluster's keys; a thread reads only what it wrote.
  uint32_t all_count[kMaxBins];
  uint64_t all_mass[kMassBins];
  // What a step found: bins (or a key), keys before, in and above, mass before.
  uint32_t found_bin[2];
  uint32_t found_before;
  uint32_t found_inside;
  uint32_t found_above;
  uint64_t found_mass;
  // Keys of a range in any order: this CTA's, and the cluster's.
  uint32_t own_size;
  uint32_t own_list[kMaxList];
  uint32_t list[kMaxList];
};

// Four keys. Keys that do not take part are kNoKey, which no range contains.
struct KeyQuad {
  uint32_t key[4];
};
inline constexpr uint32_t kNoKey = 0xffffffffu;

// Adds to a 64-bit sum in two halves.
template <class Team>
TOKENSIEVE_HOST_DEVICE void add_mass(Team& team, uint32_t* low, uint32_t* high, uint64_t mass) {
  const uint32_t add = static_cast<uint32_t>(mass);
  const uint32_t before = team.add(low, add);
  const uint32_t carry = static_cast<uint32_t>(mass >> 32) + (before + add < before ? 1 : 0);
  if (carry != 0) team.add(high, carry);
}

// Calls use(key) for every key of `range` among this CTA's. Returns the mass of those below the
// range that this thread saw (kMass).
template <bool kMass, class Team, class Keys, class Use>
TOKENSIEVE_HOST_DEVICE uint64_t visit_keys(const Team& team, const Keys& keys,
                                           const BinRange& range, Use&& use) {
  const uint32_t width = range.last - range.first;
  uint64_t below = 0;
#ifdef __CUDA_ARCH__
#pragma unroll 2
#endif
  for (int i = team.thread(); i < keys.quads(); i += team.threads()) {
    const KeyQuad quad = keys.quad(i);
    bool any = false;
    for (const uint32_t key : quad.key) {
      if (kMass && key < range.first) below += fixed_point(key);
      any = any || key - range.first <= width;
    }
    if (!any) continue;  // nearly always, but in the first step
    for (const uint32_t key : quad.key) {
      if (key - range.first <= width) use(key);
    }
  }
  return below;
}

// The CTA's mass below the range, of which this thread saw `below`.
template <class Team>
TOKENSIEVE_HOST_DEVICE void add_below(Team& team, SearchBins& bins, int turn, uint64_t below) {
  below = team.lane_sum(below);
  if (team.lane() == 0) add_mass(team, &bins.below_low[turn], &bins.below_high[turn], below);
}

// The cluster's.
template <class Team>
TOKENSIEVE_HOST_DEVICE uint64_t mass_below(const Team& team, const SearchBins& bins, int turn) {
  return (team.total(&bins.below_high[turn]) << 32) + team.total(&bins.below_low[turn]);
}

// Histogram of the keys of `range` among this CTA's. kMass: their masses too, and the mass of the
// keys below the range.
template <bool kMass, class Team, class Keys>
TOKENSIEVE_HOST_DEVICE void count_keys(Team& team, SearchBins& bins, int turn, const Keys& keys,
                                       const BinRange& range) {
  for (int i = team.thread(); i <= range.top; i += team.threads()) {
    bins.count[turn][i] = 0;
    if (kMass) bins.mass_low[turn][i] = bins.mass_high[turn][i] = 0;
  }
  if (kMass && team.thread() == 0) bins.below_low[turn] = bins.below_high[turn] = 0;
  team.sync();
  const uint64_t below = visit_keys<kMass>(team, keys, range, [&](uint32_t key) {
    const int bin = range.bin(key);
    team.add(&bins.count[turn][bin], 1);
    if (kMass) {
      add_mass(team, &bins.mass_low[turn][bin], &bins.mass_high[turn][bin], fixed_point(key));
    }
  });
  if (kMass) add_below(team, bins, turn, below);
  team.cluster_sync();
}

// Lists the keys of `range`, which are at most kMaxList in the cluster, in bins.list; returns how
// many. kMass: also the mass of this CTA's keys below the range.
template <bool kMass, class Team, class Keys>
TOKENSIEVE_HOST_DEVICE uint32_t list_keys(Team& team, SearchBins& bins, int turn, const Keys& keys,
                                          const BinRange& range) {
  if (team.thread() == 0) bins.own_size = bins.below_low[turn] = bins.below_high[turn] = 0;
  team.sync();
  const uint64_t below = visit_keys<kMass>(team, keys, range, [&](uint32_t key) {
    bins.own_list[team.add(&bins.own_size, 1)] = key;
  });
  if (kMass) add_below(team, bins, turn, below);
  team.cluster_sync();
  const uint32_t size = team.concatenate(bins.own_list, &bins.own_size, bins.list);
  team.sync();
  return size;
}

// Bins [begin, end) of this thread.
struct BinPart {
  int begin, end;
  template <class Team>
  TOKENSIEVE_HOST_DEVICE static BinPart of(const Team& team, int top) {
    const int size = (top + team.threads()) / team.threads();
    const int begin = team.thread() * size;
    return {begin, begin + size <= top ? begin + size : top + 1};
  }
};

// Sums the cluster's histograms into all_*.
template <bool kMass, class Team>
TOKENSIEVE_HOST_DEVICE void merge_bins(const Team& team, SearchBins& bins, int turn, int top) {
  const BinPart part = BinPart::of(team, top);
#ifdef __CUDA_ARCH__
#pragma unroll 4
#endif
  for (int bin = part.begin; bin < part.end; ++bin) {
    bins.all_count[bin] = static_cast<uint32_t>(team.total(&bins.count[turn][bin]));
    if (!kMass) continue;
    bins.all_mass[bin] = (team.total(&bins.mass_high[turn][bin]) << 32) +
                         team.total(&bins.mass_low[turn][bin]);
  }
}

// Calls use(bin, sum of value_of over the bins before, its own value, sum of all) for every bin of
// this thread.
template <class T, class Team, class ValueOf, class Use>
TOKENSIEVE_HOST_DEVICE void scan_bins(Team& team, int top, ValueOf&& value_of, Use&& use) {
  const BinPart part = BinPart::of(team, top);
  T own = {};
#ifdef __CUDA_ARCH__
#pragma unroll 4
#endif
  for (int bin = part.begin; bin < part.end; ++bin) own = own + value_of(bin);
  T all;
  T before = team.exclusive_scan(own, &all);
  for (int bin = part.begin; bin < part.end; ++bin) {
    const T here = value_of(bin);
    use(bin, before, here, all);
    before = before + here;
  }
}

}  // namespace tokensieve::cuda
