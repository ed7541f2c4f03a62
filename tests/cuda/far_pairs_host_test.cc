// The count of pairs from masks and ranks (cuda/rows/far_pairs.h), run on the host, against the one
// from lists of tokens.
#include "cuda/rows/far_pairs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/work.h"
#include "support/case_data.h"

namespace tokensieve::cuda {
namespace {

struct FarCase {
  int64_t queries, tokens;
  int32_t local_window, sinks;
  bool far;  // some key lies between sinks and window
};

// A set as select leaves it on the device.
struct Words {
  std::vector<uint32_t> mask, rank;

  Words(const std::vector<int32_t>& kept, int64_t tokens) {
    mask.resize((tokens + 31) / 32);
    for (const int32_t token : kept) mask[token / 32] |= 1u << (token % 32);
    uint32_t before = 0;
    for (const uint32_t word : mask) {
      rank.push_back(before);
      before += static_cast<uint32_t>(set_bits(word));
    }
  }
};

// Ascending; every `one_in`-th token or so, and the newest eight.
std::vector<int32_t> random_set(int64_t tokens, int64_t one_in, uint64_t seed) {
  test::Random random(seed);
  std::vector<int32_t> kept;
  for (int64_t i = 0; i < tokens; ++i) {
    if (random.below(one_in) == 0 || i >= tokens - 8) kept.push_back(static_cast<int32_t>(i));
  }
  return kept;
}

TEST(FarPairsOfWords, AreThoseOfTheList) {
  for (const FarCase& c : {FarCase{1500, 1500, 128, 4, true}, {1500, 1500, 0, 64, true},
                           {700, 1500, 64, 64, true}, {701, 1533, 0, 33, true},
                           {8, 1500, 256, 0, true}, {90, 100, 0, 4, true},
                           {64, 129, 64, 64, false}, {60, 60, 0, 64, false}}) {
    Plan plan;
    plan.shape.seqlen_q = c.queries;
    plan.shape.seqlen_kv = c.tokens;
    plan.select.local_window = c.local_window;
    plan.select.sinks = c.sinks;
    for (const int64_t one_in : {1, 2, 5, 40}) {
      const std::vector<int32_t> kept = random_set(c.tokens, one_in, 3);
      const Words set(kept, c.tokens);
      int64_t pairs = 0;
      for (size_t word = 0; word < set.mask.size(); ++word) {
        const int begin = static_cast<int>(word) / 2 * kLocalBlock - c.local_window;
        pairs += far_pairs_of_word(set.mask.data(), set.rank.data(), static_cast<int>(word),
                                   static_cast<int>(c.tokens - c.queries), std::max(0, begin),
                                   c.sinks);
      }
      EXPECT_EQ(pairs, far_pairs(plan, kept))
          << c.queries << " of " << c.tokens << ", one in " << one_in;
      if (one_in == 1) {
        EXPECT_EQ(pairs > 0, c.far) << c.queries << " of " << c.tokens;
      }
    }
  }
}

}  // namespace
}  // namespace tokensieve::cuda
