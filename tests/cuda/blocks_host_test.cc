// How attend walks a block mask, run on the host: cuda/blocks/walk.h is what the device compiles.
#include <gtest/gtest.h>

#include <bit>
#include <random>
#include <vector>

#include "cuda/blocks/walk.h"

namespace tokensieve::cuda {
namespace {

using Words = std::vector<uint32_t>;

bool visited(const Words& row, int tile) { return (row[tile / 32] >> (tile % 32) & 1) != 0; }

// Stages of kTileK keys with a key before `end` in a visited tile, newest first.
template <int kTileK>
std::vector<int> stages_of(const Words& row, int end) {
  std::vector<int> stages;
  for (int stage = ceil_div(end, kTileK) - 1; stage >= 0; --stage) {
    if (visited(row, stage * kTileK / kBlock)) stages.push_back(stage);
  }
  return stages;
}

// As finish_masks counts.
int count_visits(const Words& row, int end) {
  int tiles = 0;
  for (int word = 0; word * 32 < ceil_div(end, kBlock); ++word) {
    tiles += std::popcount(row[word] & tiles_before(ceil_div(end, kBlock) - word * 32));
  }
  return tiles * (kBlock / kVisitKeys) - visits_first_half(row.data(), end);
}

template <int kTileK>
void check_walk(const Words& row, int end) {
  const std::vector<int> expected = stages_of<kTileK>(row, end);
  const int visits = ceil_div(count_visits(row, end), kTileK / kVisitKeys);
  ASSERT_EQ(visits, static_cast<int>(expected.size())) << "end " << end;
  const auto word_of = [&](int word) { return row[word]; };
  BlockWalk<kTileK> walk(ceil_div(end, kTileK));
  const auto next = [&] { return walk.next(ceil_div(end, kTileK), word_of); };
  for (const int stage : expected) ASSERT_EQ(next(), stage) << "end " << end;
  for (int i = 0; i < 3; ++i) {  // a mask that changes under a run
    const int stage = next();
    ASSERT_TRUE(stage >= 0 && stage < ceil_div(end, kTileK));
  }
}

// Exactly the words of the row, so that a sanitizer sees reads beyond it; bits at and above `end`
// are whatever the row holds.
void check_row(const Words& all, int end) {
  const Words row(all.begin(), all.begin() + ceil_div(ceil_div(end, kBlock), 32));
  check_walk<64>(row, end);
  check_walk<128>(row, end);
}

TEST(BlockWalk, VisitsTheListedStagesDownwards) {
  std::mt19937 random(3);
  for (const int density : {1, 4, 16, 31}) {
    for (int end = 1; end <= 70 * kBlock; end += end % kBlock == 1 ? 62 : 1 + end % 7 * 5) {
      Words row(3);
      for (int bit = 0; bit < 96; ++bit) {
        if (static_cast<int>(random() % 32) < density) row[bit / 32] |= 1u << bit % 32;
      }
      check_row(row, end);
    }
  }
}

TEST(BlockWalk, FullAndEmptyRows) {
  for (const int end : {1, 64, 65, 127, 128, 129, 4095, 4096, 4097, 8191, 8192, 8193}) {
    check_row(Words(3, ~0u), end);
    check_row(Words(3, 0u), end);
    EXPECT_EQ(count_visits(Words(3, ~0u), end), ceil_div(end, kVisitKeys));
    EXPECT_EQ(count_visits(Words(3, 0u), end), 0);
  }
}

TEST(BlockWalk, NothingVisibleReadsNothing) {
  EXPECT_EQ(count_visits({}, 0), 0);
}

}  // namespace
}  // namespace tokensieve::cuda
