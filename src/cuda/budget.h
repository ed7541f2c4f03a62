// Budget and select on the device, written so that the host runs the same source (tests/cuda).
//
// No sort: a search by histograms finds the budget's last dropped value and a set's threshold. Every sum is an integer, so results do not depend on the order of threads.
// A Team is the group of threads that works on one row; see BlockTeam (device) and SerialTeam
// (host, below). Rules: core/budget.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define TOKENSIEVE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TOKENSIEVE_HOST_DEVICE inline
#endif

namespace tokensieve::cuda {

// Values of BudgetPolicy and Arithmetic (tokensieve/select.h), which kernels do not include.
inline constexpr int kBudgetTau = 0;
inline constexpr int kBudgetKeepRatio = 1;
inline constexpr int kArithmeticReference = 1;

TOKENSIEVE_HOST_DEVICE uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
TOKENSIEVE_HOST_DEVICE float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Rounds a finite value to bf16, nearest even.
TOKENSIEVE_HOST_DEVICE float to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  return bits_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

// Scores are >= 0, so their bits order as they do.
TOKENSIEVE_HOST_DEVICE uint32_t score_key(float x) { return float_bits(x) & 0x7fffffffu; }

// 2^48 times the value of a key, rounded: rows that sum to less than 2^14 in 64 bits with room to
// spare, the same in any order. Scores of a softmax sum to 1.
inline constexpr double kFixedOne = 281474976710656.0;
TOKENSIEVE_HOST_DEVICE uint64_t fixed_point(uint32_t key) {
  constexpr uint32_t kLargest = 0x477fffffu;  // the float below 65536
  if (key > kLargest) key = kLargest;
  const int shift = static_cast<int>(key >> 23) - 150 + 48;
  const uint64_t mantissa = (key & 0x7fffffu) | 0x800000u;
  if (shift >= 0) return mantissa << shift;
  if (shift < -25) return 0;  // subnormal values too
  return (mantissa + (uint64_t{1} << (-shift - 1))) >> -shift;
}

// How the scores of a row are normalised before they are ranked or budgeted.
struct Normaliser {
  bool divide;  // reference rounding: bf16(x / bf16(bf16(sum) + 1e-8))
  float divisor;

  TOKENSIEVE_HOST_DEVICE static Normaliser of_sum(uint64_t sum) {
    const float total = static_cast<float>(sum) * static_cast<float>(1.0 / kFixedOne);
    return {true, to_bf16(to_bf16(total) + 1e-8f)};
  }
  TOKENSIEVE_HOST_DEVICE uint32_t key(float x) const {
    return score_key(divide ? to_bf16(x / divisor) : x);
  }
};

// The tau rule on a row: mass below this stays droppable (fixed point). `sum`: of the row; in
// reference rounding the row is normalised already.
TOKENSIEVE_HOST_DEVICE uint64_t mass_limit(double tau, uint64_t sum, bool reference) {
  const double limit = reference
                           ? static_cast<double>(static_cast<float>(tau)) * kFixedOne
                           : tau * (static_cast<double>(sum) + 1e-8 * kFixedOne);
  return static_cast<uint64_t>(ceil(limit));
}

struct BudgetRule {
  int32_t budget;  // BudgetPolicy
  double keep_ratio;
  int64_t keep_count;
  int64_t min_keep;
  int32_t protect_first;
  double keep_limit;
  int64_t capacity;
};

// Kept prefix tokens; `dropped`: how many the tau rule may drop, without its "one more".
TOKENSIEVE_HOST_DEVICE int64_t kept_prefix(const BudgetRule& rule, int64_t prefix_len,
                                           int64_t dropped) {
  int64_t keep = rule.keep_count;
  if (rule.budget == kBudgetTau) keep = dropped == 0 ? prefix_len : prefix_len - (dropped + 1);
  if (rule.budget == kBudgetKeepRatio) {
    keep = static_cast<int64_t>(floor(rule.keep_ratio * static_cast<double>(prefix_len)));
  }
  if (keep < rule.min_keep) keep = rule.min_keep;
  if (keep < rule.protect_first) keep = rule.protect_first;
  return keep < prefix_len ? keep : prefix_len;
}

TOKENSIEVE_HOST_DEVICE bool runs_dense(const BudgetRule& rule, int64_t prefix_len, int64_t keep,
                                       int64_t suffix) {
  return keep >= prefix_len ||
         keep > static_cast<int64_t>(floor(rule.keep_limit * static_cast<double>(prefix_len))) ||
         keep + suffix > rule.capacity;
}

// What the smooth kernel finds out about a row, in parts that merge in any order.
struct RowSummary {
  uint64_t sum;  // fixed point
  uint32_t least, most;  // keys

  TOKENSIEVE_HOST_DEVICE static RowSummary empty() { return {0, 0xffffffffu, 0}; }
  TOKENSIEVE_HOST_DEVICE void add(const RowSummary& other) {
    sum += other.sum;
    least = other.least < least ? other.least : least;
    most = other.most > most ? other.most : most;
  }
};

// Bins of one step of a search: keys from `first` to `last`, 1 << shift keys each from `low` on; the
// outer bins take what lies below and above.
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

inline constexpr int kMaxBins = 2048;
inline constexpr int kNoBin = -1;

// Fine bins for keys from low to high inside [first, last]. bf16 keys are multiples of 1 << 16.
TOKENSIEVE_HOST_DEVICE BinRange bin_range(uint32_t first, uint32_t last, uint32_t low,
                                          uint32_t high, bool bf16_keys) {
  if (low >= high) {
    low = first;
    high = last;
  }
  BinRange range = {first, last, low, bf16_keys ? 16 : 0, 0};
  while ((high - low) >> range.shift >= kMaxBins) ++range.shift;
  range.top = static_cast<int>((high - low) >> range.shift);
  return range;
}
TOKENSIEVE_HOST_DEVICE BinRange bin_range(uint32_t first, uint32_t last, bool bf16_keys) {
  return bin_range(first, last, first, last, bf16_keys);
}

// First step: 16 octaves around the mean of a row that sums to 1, where nearly all scores are. Finer
// bins there mean fewer threads that add to the same one.
TOKENSIEVE_HOST_DEVICE BinRange first_range(uint32_t least, uint32_t most, int64_t row_length,
                                            bool bf16_keys) {
  uint32_t exponent = 127;  // of about 1 / row_length
  for (int64_t n = row_length; n > 1; n /= 2) --exponent;
  const uint32_t low = (exponent - 12) << 23;
  const uint32_t high = (exponent + 4) << 23;
  return bin_range(least, most, least > low ? least : low, most < high ? most : high, bf16_keys);
}

TOKENSIEVE_HOST_DEVICE bool single_key(const BinRange& range, bool bf16_keys) {
  return (range.last - range.first) >> (bf16_keys ? 16 : 0) == 0;
}

struct BinTotals {
  uint32_t count;
  uint64_t mass;
};

// Shared memory of a search.
struct SearchBins {
  // This CTA's keys. Two histograms in turn: a neighbour in the cluster may still read the last.
  uint32_t count[2][kMaxBins];
  uint32_t mass_low[2][kMaxBins];  // of 64-bit sums; carries are added by hand, because 64-bit
  uint32_t mass_high[2][kMaxBins]; // shared atomics are slow
  uint32_t below_low[2], below_high[2];  // mass of the keys below the range
  // The cluster's keys; a thread reads only what it wrote.
  uint32_t all_count[kMaxBins];
  uint64_t all_mass[kMaxBins];
  // What find_bin found: the bins, and the totals of the bins before the first and above it.
  int found_bin[2];
  uint32_t found_above;
  BinTotals found_before;
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
    for (const uint32_t key : quad.key) {
      if (kMass && key < range.first) below += fixed_point(key);
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
  for (int bin = part.begin; bin < part.end; ++bin) {
    bins.all_count[bin] = static_cast<uint32_t>(team.total(&bins.count[turn][bin]));
    if (!kMass) continue;
    bins.all_mass[bin] = (team.total(&bins.mass_high[turn][bin]) << 32) +
                         team.total(&bins.mass_low[turn][bin]);
  }
}

// Finds the one bin for which crosses(totals before it, its own, totals of all) holds, into
// found_bin[slot] and, for slot 0, the other found_*; they keep their values if there is none.
// mass_of(bin, count): what counts as the bin's mass.
template <class Team, class MassOf, class Crosses>
TOKENSIEVE_HOST_DEVICE void find_bin(Team& team, SearchBins& bins, int slot, int top,
                                     MassOf&& mass_of, Crosses&& crosses) {
  const BinPart part = BinPart::of(team, top);
  BinTotals own = {0, 0};
  for (int bin = part.begin; bin < part.end; ++bin) {
    own = {own.count + bins.all_count[bin], own.mass + mass_of(bin, bins.all_count[bin])};
  }
  BinTotals all;
  BinTotals before = team.exclusive_scan(own, &all);
  for (int bin = part.begin; bin < part.end; ++bin) {
    const BinTotals here = {bins.all_count[bin], mass_of(bin, bins.all_count[bin])};
    if (crosses(before, here, all)) {
      bins.found_bin[slot] = bin;
      if (slot == 0) {
        bins.found_above = all.count - before.count - here.count;
        bins.found_before = before;
      }
    }
    before = {before.count + here.count, before.mass + here.mass};
  }
}

// count keys of about this value; saturates far above any limit.
TOKENSIEVE_HOST_DEVICE uint64_t mass_of_keys(uint32_t count, uint32_t key) {
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  const uint64_t value = fixed_point(key);
  const float about = static_cast<float>(value) * static_cast<float>(count);
  return about < static_cast<float>(kHuge / 2) ? count * value : kHuge;
}

// First step of the budget. From counts alone every bin's mass is known within its bounds, which
// leaves a few bins where the limit may be crossed: their range, or an empty one (last < first) if
// it is crossed nowhere. *below: how many keys come before the range.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE BinRange crossing_range(Team& team, SearchBins& bins, int* turn,
                                               const Keys& keys, const BinRange& range,
                                               uint64_t limit, bool bf16_keys, int64_t* below) {
  if (team.thread() == 0) bins.found_bin[0] = bins.found_bin[1] = kNoBin;
  count_keys<false>(team, bins, *turn, keys, range);
  merge_bins<false>(team, bins, *turn, range.top);
  *turn ^= 1;
  const auto crosses = [&](const BinTotals& before, const BinTotals& here, const BinTotals&) {
    return before.mass < limit && before.mass + here.mass >= limit;
  };
  const auto at_most = [&](int bin, uint32_t count) {
    return mass_of_keys(count, range.most(bin));
  };
  const auto at_least = [&](int bin, uint32_t count) {
    return mass_of_keys(count, range.least(bin));
  };
  find_bin(team, bins, 0, range.top, at_most, crosses);
  find_bin(team, bins, 1, range.top, at_least, crosses);
  team.sync();
  const int from = bins.found_bin[0];
  const int to = bins.found_bin[1] == kNoBin ? range.top : bins.found_bin[1];
  *below = bins.found_before.count;
  team.sync();  // everybody has read found_*
  if (from == kNoBin) return {1, 0, 0, 0, 0};
  return bin_range(range.least(from), range.most(to), bf16_keys);
}

// How many of the smallest keys stay below `limit` together. `total`: keys of the whole row,
// `range`: theirs. `turn` goes on from search to search.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE int64_t droppable(Team& team, SearchBins& bins, int* turn, const Keys& keys,
                                         int64_t total, BinRange range, uint64_t limit,
                                         bool bf16_keys) {
  if (limit == 0) return 0;
  int64_t below = 0;
  range = crossing_range(team, bins, turn, keys, range, limit, bf16_keys, &below);
  if (range.last < range.first) return total;
  while (true) {
    if (team.thread() == 0) bins.found_bin[0] = kNoBin;
    count_keys<true>(team, bins, *turn, keys, range);
    merge_bins<true>(team, bins, *turn, range.top);
    const uint64_t mass =  // of the keys below the range
        (team.total(&bins.below_high[*turn]) << 32) + team.total(&bins.below_low[*turn]);
    *turn ^= 1;
    find_bin(
        team, bins, 0, range.top, [&](int bin, uint32_t) { return bins.all_mass[bin]; },
        [&](const BinTotals& before, const BinTotals& here, const BinTotals&) {
          return mass + before.mass < limit && mass + before.mass + here.mass >= limit;
        });
    team.sync();
    const int bin = bins.found_bin[0];
    const BinTotals before = bins.found_before;
    team.sync();  // everybody has read found_*
    if (bin == kNoBin) return total;
    range = bin_range(range.least(bin), range.most(bin), bf16_keys);
    below += before.count;
    if (!single_key(range, bf16_keys)) continue;
    // All keys of the crossing bin are equal, and it crosses, so none is 0.
    return below +
           static_cast<int64_t>((limit - 1 - mass - before.mass) / fixed_point(range.first));
  }
}

// The wanted largest keys are those above `key` and the first `ties` equal to it.
struct Threshold {
  uint32_t key;
  uint32_t ties;
};

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
    find_bin(
        team, bins, 0, range.top, [](int, uint32_t) { return uint64_t{0}; },
        [&](const BinTotals& before, const BinTotals& here, const BinTotals& all) {
          const uint32_t above = all.count - before.count - here.count;
          return above < left && above + here.count >= left;
        });
    team.sync();
    const int bin = bins.found_bin[0];
    left -= bins.found_above;
    team.sync();  // everybody has read found_*
    range = bin_range(range.least(bin), range.most(bin), bf16_keys);
    if (single_key(range, bf16_keys)) return {range.first, left};
  }
}

// Nothing but protected and newest tokens, whose key is kNoKey, is above this.
inline constexpr Threshold kNothing = {0x80000000u, 0};

// The lowest `count` bits that are set in `bits`.
TOKENSIEVE_HOST_DEVICE uint32_t lowest_bits(uint32_t bits, uint32_t count) {
  uint32_t rest = bits;
  for (; count > 0 && rest != 0; --count) rest &= rest - 1;
  return bits ^ rest;
}

// 32 tokens of a set: which are above the threshold, which equal it, and how many of each come
// before them.
struct RankedWord {
  uint32_t above;
  uint32_t equal;
  uint32_t above_before;
  uint32_t equal_before;

  // Kept tokens before the word.
  TOKENSIEVE_HOST_DEVICE uint32_t rank(uint32_t ties) const {
    return above_before + (equal_before < ties ? equal_before : ties);
  }
  // Kept tokens of the word.
  TOKENSIEVE_HOST_DEVICE uint32_t kept(uint32_t ties) const {
    return above | (equal_before < ties ? lowest_bits(equal, ties - equal_before) : 0);
  }
};

// A team of one: the host's.
class SerialTeam {
 public:
  int thread() const { return 0; }
  int threads() const { return 1; }
  int lane() const { return 0; }
  uint64_t lane_sum(uint64_t x) const { return x; }
  void sync() const {}
  void cluster_sync() const {}
  uint32_t add(uint32_t* where, uint32_t value) const {
    const uint32_t before = *where;
    *where += value;
    return before;
  }
  uint64_t total(const uint32_t* where) const { return *where; }
  BinTotals exclusive_scan(const BinTotals& own, BinTotals* all) const {
    *all = own;
    return {0, 0};
  }
};

}  // namespace tokensieve::cuda
