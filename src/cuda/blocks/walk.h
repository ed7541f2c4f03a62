// How a row tile's mask becomes visits of key stages. The host runs the same source
// (tests/cuda/blocks_host_test.cc).
#pragma once

#include "cuda/select/fixed_point.h"
#include "tokensieve/blocks.h"

namespace tokensieve::cuda {

// Visits are counted in keys of the smallest stage (head_dim 256).
inline constexpr int kVisitKeys = 64;

TOKENSIEVE_HOST_DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Those of a word's 32 tiles that lie before tile `end`, which counts from the word's first.
TOKENSIEVE_HOST_DEVICE uint32_t tiles_before(int end) { return end < 32 ? (1u << end) - 1 : ~0u; }

// Whether keys [0, end) reach only into the first half of the last tile, and that is visited.
TOKENSIEVE_HOST_DEVICE bool visits_first_half(const uint32_t* row, int end) {
  const int tile = end / kBlock;
  return end % kBlock > 0 && end % kBlock <= kVisitKeys && (row[tile / 32] >> (tile % 32) & 1);
}

// The stages of kTileK keys that a row tile visits, from the newest to the oldest: all of them in
// the order of attention without a mask. The K/V thread has few registers, so little is kept.
template <int kTileK>
class BlockWalk {
 public:
  // end: stages with a visible key.
  TOKENSIEVE_HOST_DEVICE explicit BlockWalk(int end)
      : stage_(ceil_div(end, kStagesOfWord) * kStagesOfWord) {}

  // The next stage. end: as above; word_of(w): word w of the row tile's mask. To be called once a
  // visit; calls beyond that stay within the row and its keys.
  template <typename WordOf>
  TOKENSIEVE_HOST_DEVICE int next(int end, WordOf&& word_of) {
    if (kStagesOfTile == 2 && stage_ % 2 == 1) return --stage_;
    int word = stage_ / kStagesOfWord;
    while (rest_ == 0 && word > 0) {
      --word;
      rest_ = word_of(word) & tiles_before(ceil_div(end, kStagesOfTile) - 32 * word);
    }
    const int bit = rest_ == 0 ? 0 : bits_of(rest_) - 1;
    rest_ &= ~(1u << bit);
    const int last = (32 * word + bit + 1) * kStagesOfTile - 1;
    stage_ = last < end ? last : end - 1;
    return stage_;
  }

 private:
  static constexpr int kStagesOfTile = kBlock / kTileK;
  static constexpr int kStagesOfWord = 32 * kStagesOfTile;
  static_assert(kStagesOfTile == 1 || kStagesOfTile == 2);

  int stage_;          // the last one; before the first one: behind the row's words
  uint32_t rest_ = 0;  // tiles of its word that are yet to come
};

}  // namespace tokensieve::cuda
