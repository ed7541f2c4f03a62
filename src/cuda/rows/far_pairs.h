// Pairs of local fill's compact pass (keys/limited.h), counted from a set's mask and rank; also run
// on the host (tests/cuda/far_pairs_host_test.cc).
#pragma once

#include <bit>
#include <cstdint>

#include "cuda/select/fixed_point.h"

namespace tokensieve::cuda {

TOKENSIEVE_HOST_DEVICE int set_bits(uint32_t word) {
#ifdef __CUDA_ARCH__
  return __popc(word);
#else
  return std::popcount(word);
#endif
}

// Of one word of 32 tokens: its kept rows from token `first_row` on, whose windows all begin at
// `window`, a multiple of 64, and the kept tokens between the sinks and there.
TOKENSIEVE_HOST_DEVICE int64_t far_pairs_of_word(const uint32_t* mask, const uint32_t* rank,
                                                 int word, int first_row, int window, int sinks) {
  const int before_call = first_row - 32 * word;
  if (window <= sinks || before_call >= 32) return 0;
  const uint32_t rows = before_call > 0 ? mask[word] >> before_call : mask[word];
  const uint32_t below_sinks = (1u << (sinks % 32)) - 1;
  const uint32_t kept_sinks = rank[sinks / 32] + set_bits(mask[sinks / 32] & below_sinks);
  return int64_t{set_bits(rows)} * (rank[window / 32] - kept_sinks);
}

}  // namespace tokensieve::cuda
