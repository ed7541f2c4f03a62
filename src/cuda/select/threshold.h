// Searches by histograms instead of a sort: the budget's last dropped value, and a set's threshold.
#pragma once

#include "cuda/select/bins.h"

namespace tokensieve::cuda {

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
  const float slack =
      1e-5f * mass + static_cast<float>(total) * static_cast<float>(1.0 / kFixedOne);
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
  const uint64_t mass = mass_below(team, bins, *turn);
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
    const uint64_t mass = mass_below(team, bins, *turn);
    *turn ^= 1;
    scan_bins<BinTotals>(
        team, range.top,
        [&](int bin) { return BinTotals{bins.all_mass[bin], bins.all_count[bin]}; },
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
