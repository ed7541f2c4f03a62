// What baselines keep in place of the library's choice.
#include "eval/selectors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace tokensieve::eval {
namespace {

struct Choice {
  std::vector<int32_t> kept;
  tokensieve_ggml_selection selection = {};

  Choice(int32_t layer, int64_t tokens, int32_t sets, int64_t count, int64_t capacity)
      : kept(static_cast<size_t>(sets * capacity)) {
    selection.struct_size = sizeof(selection);
    selection.layer = layer;
    selection.tokens = tokens;
    selection.queries = tokens;
    selection.prefix = tokens - 128;
    selection.sets = sets;
    selection.obs_window = 128;
    selection.capacity = capacity;
    selection.count = count;
    selection.kept = kept.data();
    // The library's choice here: the first prefix tokens.
    for (int32_t set = 0; set < sets; ++set) {
      int32_t* row = kept.data() + set * capacity;
      std::iota(row, row + count - 128, 0);
      std::iota(row + count - 128, row + count, static_cast<int32_t>(selection.prefix));
    }
  }

  std::vector<int32_t> set(int32_t index) const {
    const int32_t* row = kept.data() + index * selection.capacity;
    return {row, row + selection.count};
  }

  // What the library demands of a set.
  void expect_valid(int64_t count) const {
    EXPECT_EQ(selection.count, count);
    for (int32_t s = 0; s < selection.sets; ++s) {
      const std::vector<int32_t> tokens = set(s);
      for (size_t i = 1; i < tokens.size(); ++i) ASSERT_LT(tokens[i - 1], tokens[i]);
      ASSERT_GE(tokens.front(), 0);
      ASSERT_EQ(tokens.back(), selection.tokens - 1);
      ASSERT_EQ(tokens[tokens.size() - 128], selection.prefix);
    }
  }
};

TEST(EvalSelectors, RandomSetsAreValidAndRepeat) {
  Choice a(5, 2000, 3, 500, 500), b(5, 2000, 3, 500, 500), other(6, 2000, 3, 500, 500);
  EXPECT_TRUE(random_selector(7)->select(a.selection));
  EXPECT_TRUE(random_selector(7)->select(b.selection));
  EXPECT_TRUE(random_selector(7)->select(other.selection));
  a.expect_valid(500);
  EXPECT_EQ(a.kept, b.kept);
  EXPECT_NE(a.set(0), a.set(1)) << "sets are drawn on their own";
  EXPECT_NE(a.set(0), other.set(0)) << "so are layers";
  // Drawn from all of the prefix: 372 of 1872, a fifth of each half.
  const std::vector<int32_t> set = a.set(0);
  const auto half = std::count_if(set.begin(), set.end(), [](int32_t t) { return t < 936; });
  EXPECT_GT(half, 130);
  EXPECT_LT(half, 242);
}

TEST(EvalSelectors, RecentKeepsSinksAndTheNewest) {
  Choice choice(5, 2000, 1, 500, 500);
  EXPECT_TRUE(recent_selector(4)->select(choice.selection));
  choice.expect_valid(500);
  const std::vector<int32_t> set = choice.set(0);
  EXPECT_EQ(set[3], 3);
  EXPECT_EQ(set[4], 2000 - 496);
}

TEST(EvalSelectors, OnceReusesTheFirstChoice) {
  const auto once = once_selector();
  Choice first(2, 2000, 1, 500, 500);
  const std::vector<int32_t> kept = first.set(0);
  EXPECT_TRUE(once->select(first.selection));
  Choice second(3, 2000, 1, 500, 500);
  EXPECT_TRUE(recent_selector(0)->select(second.selection));  // another choice of the library
  EXPECT_TRUE(once->select(second.selection));
  second.expect_valid(500);
  EXPECT_EQ(second.set(0), kept);
}

TEST(EvalSelectors, RecordAndReplay) {
  KeptByLayer sets;
  std::vector<int32_t> seen;
  const auto recorder =
      recording_selector(sets, /*dense=*/true, [&](int32_t layer) { seen.push_back(layer); });
  Choice choice(4, 2000, 3, 500, 500);
  EXPECT_FALSE(recorder->select(choice.selection));
  EXPECT_EQ(seen, std::vector<int32_t>{4});
  const auto replay = replay_selector(sets);
  Choice again(4, 2000, 3, 400, 500);
  EXPECT_TRUE(replay->select(again.selection));
  again.expect_valid(500);
  EXPECT_EQ(again.set(2), choice.set(2));
  Choice unknown(5, 2000, 3, 500, 500), longer(4, 2001, 3, 500, 500);
  EXPECT_FALSE(replay->select(unknown.selection));
  EXPECT_FALSE(replay->select(longer.selection));
}

TEST(EvalSelectors, InspectingSeesWhatRuns) {
  KeptByLayer sets;
  const auto selector = inspecting_selector(recent_selector(4), sets);
  Choice choice(4, 2000, 1, 500, 500);
  EXPECT_EQ(Selector::hook(&choice.selection, selector.get()), 1);
  EXPECT_EQ(sets.at(4).sets.front(), choice.set(0));
  EXPECT_EQ(sets.at(4).sets.front()[4], 1504);
}

}  // namespace
}  // namespace tokensieve::eval
