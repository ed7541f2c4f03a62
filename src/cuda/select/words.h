// From a threshold to the kept tokens, a word of 32 at a time.
#pragma once

#include "cuda/select/fixed_point.h"

namespace tokensieve::cuda {

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

}  // namespace tokensieve::cuda
