// Searches by histograms instead of a sort: the budget's last dropped value, and a set's threshold.
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
      if (key - range.first > width) continue;
      const int bin = range.bin(key);
      team.add(&bins.count[turn][bin], 1);
      if (kMass) {
        add_mass(team, &bins.mass_low[turn][bin], &bins.mass_high[turn][bin], fixed_point(key));
      }
    }
  }
  if (kMass) {
    below = team.lane_sum(below);
    if (team.lane() == 0) add_mass(team, &bins.below_low[turn], &bins.below_high[turn], below);
  }
  team.cluster_sync();
}

// Lists the keys of `range`, which are at most kMaxList in the cluster, in bins.list; returns how
// many. kMass: also the mass of this CTA's keys below the range.
template <bool kMass, class Team, class Keys>
TOKENSIEVE_HOST_DEVICE uint32_t list_keys(Team& team, SearchBins& bins, int turn, const Keys& keys,
                                          const BinRange& range) {
  if (team.thread() == 0) bins.own_size = bins.below_low[turn] = bins.below_high[turn] = 0;
  team.sync();
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
    if (!any) continue;
    for (const uint32_t key : quad.key) {
      if (key - range.first <= width) bins.own_list[team.add(&bins.own_size, 1)] = key;
    }
  }
  if (kMass) {
    below = team.lane_sum(below);
    if (team.lane() == 0) add_mass(team, &bins.below_low[turn], &bins.below_high[turn], below);
  }
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

// First step of the budget. From counts alone every bin's mass is known within its bounds, which
// leaves a few bins where the limit may be crossed: their range, or an empty one (last < first) if
// it is crossed nowhere. *below, *inside: how many keys come before the range, and are in it.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE BinRange crossing_range(Team& team, SearchBins& bins, int* turn,
                                               const Keys& keys, int64_t total,
                                               const BinRange& range, uint64_t limit,
                                               bool bf16_keys, int64_t* below,
                                               uint32_t* inside) {
  if (team.thread() == 0) {
    bins.found_bin[0] = bins.found_bin[1] = kNoBin;
    bins.found_before = 0;
    bins.found_inside = static_cast<uint32_t>(total);  // up to the end of the range
  }
  count_keys<false>(team, bins, *turn, keys, range);
  merge_bins<false>(team, bins, *turn, range.top);
  *turn ^= 1;
  // The slack is for f32 sums and for the rounding of masses.
  const float mass = static_cast<float>(limit) * static_cast<float>(1.0 / kFixedOne);
  const float slack = 1e-5f * mass + static_cast<float>(total) * static_cast<float>(1.0 / kFixedOne);
  uint32_t from = kNoBin;
  uint32_t to = kNoBin;
  uint32_t count_from = 0;
  uint32_t count_to = 0;
  scan_bins<MassBounds>(
      team, range.top,
      [&](int bin) {
        const uint32_t count = bins.all_count[bin];
        return MassBounds{count, static_cast<float>(count) * bits_float(range.least(bin)),
                          static_cast<float>(count) * bits_float(range.most(bin))};
      },
      [&](int bin, const MassBounds& before, const MassBounds& here, const MassBounds&) {
        const MassBounds end = before + here;
        if (from == kNoBin && end.most >= mass - slack) {
          from = static_cast<uint32_t>(bin);
          count_from = before.count;
        }
        if (to == kNoBin && end.least >= mass + slack) {
          to = static_cast<uint32_t>(bin);
          count_to = end.count;
        }
      });
  team.least_of(&bins.found_bin[0], from);
  team.least_of(&bins.found_bin[1], to);
  team.sync();
  if (from != kNoBin && from == bins.found_bin[0]) bins.found_before = count_from;
  if (to != kNoBin && to == bins.found_bin[1]) bins.found_inside = count_to;
  team.sync();
  from = bins.found_bin[0];
  to = bins.found_bin[1];
  *below = bins.found_before;
  *inside = bins.found_inside - bins.found_before;
  team.sync();  // everybody has read found_*
  if (from == kNoBin) return {1, 0, 0, 0, 0};
  const int end = to < static_cast<uint32_t>(range.top) ? static_cast<int>(to) : range.top;
  return bin_range(range.least(static_cast<int>(from)), range.most(end), bf16_keys, kMassBinBits);
}

// The same for the few keys of `range`, whose crossing key they hold; -1 if none crosses.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE int64_t droppable_of_list(Team& team, SearchBins& bins, int* turn,
                                                 const Keys& keys, const BinRange& range,
                                                 uint64_t limit) {
  if (team.thread() == 0) bins.found_bin[0] = kNoBin;
  const uint32_t size = list_keys<true>(team, bins, *turn, keys, range);
  const uint64_t mass =  // of the keys below the range
      (team.total(&bins.below_high[*turn]) << 32) + team.total(&bins.below_low[*turn]);
  *turn ^= 1;
  for (uint32_t i = team.thread(); i < size; i += team.threads()) {
    const uint32_t key = bins.list[i];
    const uint64_t value = fixed_point(key);
    uint64_t begin = mass;
    uint32_t before = 0;
    uint32_t equal = 0;
    bool first = true;  // of equal keys one writes
    for (uint32_t j = 0; j < size; ++j) {
      const uint32_t other = bins.list[j];
      begin += other < key ? fixed_point(other) : 0;
      before += other < key ? 1 : 0;
      equal += other == key ? 1 : 0;
      first = first && (other != key || j >= i);
    }
    if (!first || begin >= limit || begin + equal * value < limit) continue;
    bins.found_bin[0] = key;
    bins.found_before = before + static_cast<uint32_t>((limit - 1 - begin) / value);
  }
  team.sync();
  const int64_t dropped =
      bins.found_bin[0] == kNoBin ? -1 : static_cast<int64_t>(bins.found_before);
  team.sync();  // everybody has read found_*
  return dropped;
}

// How many of the smallest keys stay below `limit` together. `total`: keys of the whole row,
// `range`: theirs. `turn` goes on from search to search.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE int64_t droppable(Team& team, SearchBins& bins, int* turn, const Keys& keys,
                                         int64_t total, BinRange range, uint64_t limit,
                                         bool bf16_keys) {
  if (limit == 0) return 0;
  int64_t below = 0;
  uint32_t inside = 0;
  range = crossing_range(team, bins, turn, keys, total, range, limit, bf16_keys, &below, &inside);
  if (range.last < range.first) return total;
  while (true) {
    if (inside <= kMaxList) {
      const int64_t dropped = droppable_of_list(team, bins, turn, keys, range, limit);
      return dropped < 0 ? total : below + dropped;
    }
    if (team.thread() == 0) bins.found_bin[0] = kNoBin;
    count_keys<true>(team, bins, *turn, keys, range);
    merge_bins<true>(team, bins, *turn, range.top);
    const uint64_t mass =  // of the keys below the range
        (team.total(&bins.below_high[*turn]) << 32) + team.total(&bins.below_low[*turn]);
    *turn ^= 1;
    scan_bins<BinTotals>(
        team, range.top, [&](int bin) { return BinTotals{bins.all_mass[bin], bins.all_count[bin]}; },
        [&](int bin, const BinTotals& before, const BinTotals& here, const BinTotals&) {
          const uint64_t begin = mass + before.mass;
          if (begin >= limit || begin + here.mass < limit) return;
          bins.found_bin[0] = static_cast<uint32_t>(bin);
          bins.found_before = static_cast<uint32_t>(before.count);
          bins.found_inside = static_cast<uint32_t>(here.count);
          bins.found_mass = begin;
        });
    team.sync();
    const uint32_t bin = bins.found_bin[0];
    const uint64_t begin = bins.found_mass;
    below += bins.found_before;
    inside = bins.found_inside;
    team.sync();  // everybody has read found_*
    if (bin == kNoBin) return total;
    range = bin_range(range.least(static_cast<int>(bin)), range.most(static_cast<int>(bin)),
                      bf16_keys, kMassBinBits);
    if (!single_key(range, bf16_keys)) continue;
    // All keys of the crossing bin are equal, and it crosses, so none is 0.
    return below + static_cast<int64_t>((limit - 1 - begin) / fixed_point(range.first));
  }
}

// The wanted largest keys are those above `key` and the first `ties` equal to it.
struct Threshold {
  uint32_t key;
  uint32_t ties;
};

// The threshold among the few keys of `range`, of which `left` are wanted.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE Threshold threshold_of_list(Team& team, SearchBins& bins, int* turn,
                                                   const Keys& keys, const BinRange& range,
                                                   uint32_t left) {
  const uint32_t size = list_keys<false>(team, bins, *turn, keys, range);
  *turn ^= 1;
  for (uint32_t i = team.thread(); i < size; i += team.threads()) {
    const uint32_t key = bins.list[i];
    uint32_t above = 0;
    uint32_t equal = 0;
    bool first = true;  // of equal keys one writes
    for (uint32_t j = 0; j < size; ++j) {
      above += bins.list[j] > key ? 1 : 0;
      equal += bins.list[j] == key ? 1 : 0;
      first = first && (bins.list[j] != key || j >= i);
    }
    if (!first || above >= left || above + equal < left) continue;
    bins.found_bin[0] = key;
    bins.found_above = above;
  }
  team.sync();
  const Threshold threshold = {bins.found_bin[0], left - bins.found_above};
  team.sync();  // everybody has read found_*
  return threshold;
}

// 1 <= wanted <= number of keys. `range`: of all keys.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE Threshold find_threshold(Team& team, SearchBins& bins, int* turn,
                                                const Keys& keys, int64_t wanted, BinRange range,
                                                bool bf16_keys) {
  uint32_t left = static_cast<uint32_t>(wanted);
  while (true) {
    count_keys<false>(team, bins, *turn, keys, range);
    merge_bins<false>(team, bins, *turn, range.top);
    *turn ^= 1;
    scan_bins<uint32_t>(
        team, range.top, [&](int bin) { return bins.all_count[bin]; },
        [&](int bin, uint32_t before, uint32_t here, uint32_t all) {
          const uint32_t above = all - before - here;
          if (above >= left || above + here < left) return;
          bins.found_bin[0] = static_cast<uint32_t>(bin);
          bins.found_above = above;
          bins.found_inside = here;
        });
    team.sync();
    const int bin = static_cast<int>(bins.found_bin[0]);
    const uint32_t inside = bins.found_inside;
    left -= bins.found_above;
    team.sync();  // everybody has read found_*
    range = bin_range(range.least(bin), range.most(bin), bf16_keys, kBinBits);
    if (single_key(range, bf16_keys)) return {range.first, left};
    if (inside <= kMaxList) return threshold_of_list(team, bins, turn, keys, range, left);
  }
}

// Nothing but protected and newest tokens, whose key is kNoKey, is above this.
inline constexpr Threshold kNothing = {0x80000000u, 0};

}  // namespace tokensieve::cuda
