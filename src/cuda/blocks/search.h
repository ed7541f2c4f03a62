// Searches over shares of a row, on the steps of select. The host runs them, too.
#pragma once

#include "cuda/blocks/rules.h"
#include "cuda/select/threshold.h"
#include "cuda/select/words.h"

namespace tokensieve::cuda {

// Every finite key.
TOKENSIEVE_HOST_DEVICE BinRange whole_range() {
  return bin_range(0, 0x7f7fffffu, false, kBinBits);
}
// For about `row_length` shares, each at most 1 but for rounding, that sum to 1.
TOKENSIEVE_HOST_DEVICE BinRange share_range(int64_t row_length) {
  return first_range(0, 0x40000000u, row_length, false);
}

// CTAs, 1 to 4, that share a row of so many items.
inline int cluster_for(int64_t items, int64_t per_cta) {
  int ctas = 1;
  while (ctas < 4 && items > per_cta * ctas) ctas *= 2;
  return ctas;
}

// Values [begin, size) in shared memory; those before take no part.
struct SharedKeys {
  const float* values;
  int begin, size;
  TOKENSIEVE_HOST_DEVICE uint32_t key(int i) const {
    return i >= begin && i < size ? score_key(values[i]) : kNoKey;
  }
  TOKENSIEVE_HOST_DEVICE int quads() const { return (size + 3) / 4; }
  TOKENSIEVE_HOST_DEVICE KeyQuad quad(int i) const {
    return {{key(4 * i), key(4 * i + 1), key(4 * i + 2), key(4 * i + 3)}};
  }
};

// Shared memory of row_mass.
struct RowMass {
  uint32_t low, high;
  uint32_t bad;  // keys that are NaN or inf
};
struct MassAndState {
  uint64_t mass;  // fixed point
  bool finite;
};

// What the cluster's keys sum to.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE MassAndState row_mass(Team& team, RowMass& row, const Keys& keys) {
  if (team.thread() == 0) row = {0, 0, 0};
  team.sync();
  uint64_t mass = 0;
  uint32_t bad = 0;
  for (int i = team.thread(); i < keys.quads(); i += team.threads()) {
    for (const uint32_t key : keys.quad(i).key) {
      if (key == kNoKey) continue;
      bad += key >= 0x7f800000u ? 1 : 0;
      mass += fixed_point(key);
    }
  }
  mass = team.lane_sum(mass);
  if (team.lane() == 0) add_mass(team, &row.low, &row.high, mass);
  if (bad != 0) team.add(&row.bad, bad);
  team.cluster_sync();
  return {(team.total(&row.high) << 32) + team.total(&row.low), team.total(&row.bad) == 0};
}

}  // namespace tokensieve::cuda
