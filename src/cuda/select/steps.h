// The steps of select on one row, in the order in which select_kernel takes them.
#pragma once

#include "cuda/select/rule.h"
#include "cuda/select/threshold.h"

namespace tokensieve::cuda {

// Where the search for a row's keys starts.
TOKENSIEVE_HOST_DEVICE BinRange range_of(const RowSummary& row, const Normaliser& normaliser,
                                         int64_t prefix_len, bool reference) {
  return first_range(normaliser.key(bits_float(row.least)), normaliser.key(bits_float(row.most)),
                     prefix_len, reference);
}

TOKENSIEVE_HOST_DEVICE Normaliser normaliser_of(const RowSummary& row, bool divide) {
  return divide ? Normaliser::of_sum(row.sum) : Normaliser{false, 1.0f};
}

// Budget tau: how many of the mean's keys may be dropped.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE int64_t droppable_tokens(Team& team, SearchBins& bins, int* turn,
                                                const Keys& keys, const RowSummary& mean,
                                                int64_t prefix_len, double tau, bool reference) {
  return droppable(team, bins, turn, keys, prefix_len,
                   range_of(mean, keys.normaliser, prefix_len, reference),
                   mass_limit(tau, mean.sum, reference), reference);
}

// What `wanted` of a set's ranked keys lie above.
template <class Team, class Keys>
TOKENSIEVE_HOST_DEVICE Threshold threshold_of(Team& team, SearchBins& bins, int* turn,
                                              const Keys& keys, const RowSummary& ranked,
                                              int64_t prefix_len, int64_t wanted, bool reference) {
  if (wanted <= 0) return kNothing;
  return find_threshold(team, bins, turn, keys, wanted,
                        range_of(ranked, keys.normaliser, prefix_len, reference), reference);
}

}  // namespace tokensieve::cuda
