// Budget and select on the device, written so that the host runs the same source (tests/cuda).
//
// No sort: a radix search over the bits of the scores finds the budget's last dropped value and a
// set's threshold. Every sum is an integer, so results do not depend on the order of threads.
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

// 2^48 times the value of a key, rounded: sums of up to 65536 in 64 bits, the same in any order.
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

// One step of a radix search: bits [shift, shift + bits) of the keys. bf16 values end at bit 16.
struct Digit {
  int shift;
  int bits;
};
TOKENSIEVE_HOST_DEVICE int num_digits(bool bf16_keys) { return bf16_keys ? 2 : 3; }
TOKENSIEVE_HOST_DEVICE Digit digit_at(int step, bool bf16_keys) {
  if (step == 0) return {20, 11};
  if (step == 1) return bf16_keys ? Digit{16, 4} : Digit{10, 10};
  return {0, 10};
}
inline constexpr int kMaxBins = 2048;

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
  // The cluster's keys; a thread reads only what it wrote.
  uint32_t all_count[kMaxBins];
  uint64_t all_mass[kMaxBins];
  // What find_bin found: the bin, and the totals of the bins before it and above it.
  uint32_t found_bin;
  uint32_t found_above;
  BinTotals found_before;
};

// Calls use(key) for every key of the team's tokens [begin, size).
template <class Team, class Keys, class Use>
TOKENSIEVE_HOST_DEVICE void for_keys(const Team& team, const Keys& keys, int begin, int size,
                                     Use&& use) {
#ifdef __CUDA_ARCH__
#pragma unroll 4
#endif
  for (int i = begin + team.thread(); i < size; i += team.threads()) use(keys(i));
}

// Histogram of one digit among the keys that agree with `prefix` above it.
template <bool kMass, class Team, class Keys>
TOKENSIEVE_HOST_DEVICE void count_digit(Team& team, SearchBins& bins, int turn, const Keys& keys,
                                        int begin, int size, Digit digit, uint32_t prefix) {
  const int num_bins = 1 << digit.bits;
  for (int i = team.thread(); i < num_bins; i += team.threads()) {
    bins.count[turn][i] = 0;
    if (kMass) bins.mass_low[turn][i] = bins.mass_high[turn][i] = 0;
  }
  team.sync();
  for_keys(team, keys, begin, size, [&](uint32_t key) {
    if (key >> digit.shift >> digit.bits != prefix) return;
    const uint32_t bin = key >> digit.shift & static_cast<uint32_t>(num_bins - 1);
    team.add(&bins.count[turn][bin], 1);
    if (!kMass) return;
    const uint64_t mass = fixed_point(key);
    const uint32_t low = static_cast<uint32_t>(mass);
    const uint32_t before = team.add(&bins.mass_low[turn][bin], low);
    const uint32_t high = static_cast<uint32_t>(mass >> 32) + (before + low < before ? 1 : 0);
    if (high != 0) team.add(&bins.mass_high[turn][bin], high);
  });
  team.cluster_sync();
}

// Finds the one bin for which crosses(totals before it, its own, totals of all) holds, into
// bins.found_*; they keep their values if there is none.
template <bool kMass, class Team, class Crosses>
TOKENSIEVE_HOST_DEVICE void find_bin(Team& team, SearchBins& bins, int turn, int num_bins,
                                     Crosses&& crosses) {
  const int per_thread = (num_bins + team.threads() - 1) / team.threads();
  const int begin = team.thread() * per_thread;
  const int end = begin + per_thread < num_bins ? begin + per_thread : num_bins;
  BinTotals own = {0, 0};
  for (int bin = begin; bin < end; ++bin) {
    BinTotals here = {0, 0};
    for (int rank = 0; rank < team.ranks(); ++rank) {
      here.count += team.read(&bins.count[turn][bin], rank);
      if (!kMass) continue;
      here.mass += static_cast<uint64_t>(team.read(&bins.mass_high[turn][bin], rank)) << 32;
      here.mass += team.read(&bins.mass_low[turn][bin], rank);
    }
    bins.all_count[bin] = here.count;
    if (kMass) bins.all_mass[bin] = here.mass;
    own = {own.count + here.count, own.mass + here.mass};
  }
  BinTotals all;
  BinTotals before = team.exclusive_scan(own, &all);
  for (int bin = begin; bin < end; ++bin) {
    const BinTotals here = {bins.all_count[bin], kMass ? bins.all_mass[bin] : 0};
    if (crosses(before, here, all)) {
      bins.found_bin = static_cast<uint32_t>(bin);
      bins.found_above = all.count - before.count - here.count;
      bins.found_before = before;
    }
    before = {before.count + here.count, before.mass + here.mass};
  }
  team.sync();
}

inline constexpr uint32_t kNoBin = 0xffffffffu;

// How many of the smallest keys stay below `limit` together. `size`: of this rank's keys, `total`:
// of the whole row. `turn` goes on from search to search.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE int64_t droppable(Team& team, SearchBins& bins, int* turn, const Keys& keys,
                                         int size, int64_t total, uint64_t limit, bool bf16_keys) {
  if (limit == 0) return 0;
  int64_t dropped = 0;
  uint64_t mass = 0;
  uint32_t prefix = 0;
  for (int step = 0; step < num_digits(bf16_keys); ++step) {
    const Digit digit = digit_at(step, bf16_keys);
    if (team.thread() == 0) bins.found_bin = kNoBin;
    count_digit<true>(team, bins, *turn, keys, 0, size, digit, prefix);
    find_bin<true>(team, bins, *turn, 1 << digit.bits,
                   [&](const BinTotals& before, const BinTotals& here, const BinTotals&) {
                     return mass + before.mass < limit && mass + before.mass + here.mass >= limit;
                   });
    *turn ^= 1;
    if (bins.found_bin == kNoBin) return total;
    dropped += bins.found_before.count;
    mass += bins.found_before.mass;
    prefix = prefix << digit.bits | bins.found_bin;
    team.sync();  // everybody has read found_*
  }
  // All keys of the crossing bin are equal, and it crosses, so none is 0.
  const int shift = digit_at(num_digits(bf16_keys) - 1, bf16_keys).shift;
  return dropped + static_cast<int64_t>((limit - 1 - mass) / fixed_point(prefix << shift));
}

// The wanted largest keys are those above `key` and the first `ties` equal to it.
struct Threshold {
  uint32_t key;
  uint32_t ties;
};

// wanted: of the keys [begin, size) of all ranks; 1 <= wanted <= how many they are.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE Threshold find_threshold(Team& team, SearchBins& bins, int* turn,
                                                const Keys& keys, int begin, int size,
                                                int64_t wanted, bool bf16_keys) {
  uint32_t prefix = 0;
  uint32_t left = static_cast<uint32_t>(wanted);
  for (int step = 0; step < num_digits(bf16_keys); ++step) {
    const Digit digit = digit_at(step, bf16_keys);
    count_digit<false>(team, bins, *turn, keys, begin, size, digit, prefix);
    find_bin<false>(team, bins, *turn, 1 << digit.bits,
                    [&](const BinTotals& before, const BinTotals& here, const BinTotals& all) {
                      const uint32_t above = all.count - before.count - here.count;
                      return above < left && above + here.count >= left;
                    });
    *turn ^= 1;
    prefix = prefix << digit.bits | bins.found_bin;
    left -= bins.found_above;
    team.sync();  // everybody has read found_*
  }
  return {prefix << digit_at(num_digits(bf16_keys) - 1, bf16_keys).shift, left};
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
};

// A team of one: the host's.
class SerialTeam {
 public:
  int thread() const { return 0; }
  int threads() const { return 1; }
  int ranks() const { return 1; }
  void sync() const {}
  void cluster_sync() const {}
  uint32_t add(uint32_t* where, uint32_t value) const {
    const uint32_t before = *where;
    *where += value;
    return before;
  }
  uint32_t read(const uint32_t* where, int) const { return *where; }
  BinTotals exclusive_scan(const BinTotals& own, BinTotals* all) const {
    *all = own;
    return {0, 0};
  }
};

}  // namespace tokensieve::cuda
