// The policy of all engines: which calls run sparse, and with which settings.
#include <gtest/gtest.h>

#include <string>

#include "tokensieve/profile.h"

namespace tokensieve {
namespace {

// Layers 2, 5 and 6 of eight are sparse, 5 with settings of its own, 6 with local fill; 4,096 tokens
// at least.
Profile profile() {
  Profile profile;
  profile.fingerprint = {"llama", 8, 9, 3, 64};
  profile.sparse_layers = {2, 5, 6};
  profile.min_tokens = 4096;
  profile.select.obs_window = 128;
  SelectConfig apart = profile.select;
  apart.tau = 0.02;
  apart.obs_window = 256;
  apart.protect_first = 16;
  SelectConfig local = profile.select;
  local.fill = Fill::kLocal;
  profile.layer_select = {{{5}, apart}, {{6}, local}};
  return profile;
}

struct Case {
  const char* name;
  LayerCall call;
  DenseReason reason;
  // Of sparse calls:
  Queries queries = Queries::kKept;
  int32_t protect_first = 0;
  double tau = 0.005;
};
void PrintTo(const Case& c, std::ostream* os) { *os << c.name; }

constexpr DenseReason kSparse = DenseReason::kNone;

const Case kCases[] = {
    {"whole_prompt", {2, 8192, 8192}, kSparse},
    {"whole_prompt_of_min_tokens", {2, 4096, 4096}, kSparse},
    {"whole_prompt_set_apart", {5, 8192, 8192}, kSparse, Queries::kKept, 16, 0.02},
    {"shorter_than_min_tokens", {2, 4095, 4095}, DenseReason::kBelowMinTokens},
    {"chunk_that_ends_early", {2, 1024, 4095}, DenseReason::kBelowMinTokens},
    {"first_layer", {0, 8192, 8192}, DenseReason::kLayerNotListed},
    {"layer_not_listed", {3, 8192, 8192}, DenseReason::kLayerNotListed},
    {"layer_unknown", {-1, 8192, 8192}, DenseReason::kLayerNotListed},
    {"layer_beyond_the_model", {8, 8192, 8192}, DenseReason::kLayerNotListed},
    {"mask", {2, 8192, 8192, false}, DenseReason::kNotSparsifiable},
    {"mask_of_a_chunk", {2, 2048, 8192, false}, DenseReason::kNotSparsifiable},
    // Chunks: four observation windows; zero fill with all queries and the first tokens.
    {"chunk", {2, 2048, 8192}, kSparse, Queries::kAll, 4},
    {"chunk_of_four_windows", {2, 512, 8192}, kSparse, Queries::kAll, 4},
    {"chunk_that_reaches_min_tokens", {2, 1024, 4096}, kSparse, Queries::kAll, 4},
    {"chunk_of_fewer", {2, 511, 8192}, DenseReason::kFewRows},
    {"decode", {2, 1, 8192}, DenseReason::kFewRows},
    {"chunk_set_apart", {5, 1024, 8192}, kSparse, Queries::kAll, 16, 0.02},
    {"chunk_local", {6, 1024, 8192}, kSparse, Queries::kKept},
    {"chunk_local_of_fewer", {6, 511, 8192}, DenseReason::kFewRows},
    {"whole_prompt_local", {6, 8192, 8192}, kSparse, Queries::kKept},
    {"chunk_set_apart_of_fewer", {5, 1023, 8192}, DenseReason::kFewRows},
};

class Choose : public testing::TestWithParam<Case> {};

TEST_P(Choose, FollowsTheProfile) {
  const Case& expected = GetParam();
  const LayerChoice choice = choose(profile(), expected.call);
  EXPECT_EQ(choice.reason, expected.reason) << dense_reason_text(choice.reason);
  EXPECT_EQ(choice.select.enabled, expected.reason == kSparse);
  if (!choice.select.enabled) return;
  EXPECT_EQ(choice.select.queries, expected.queries);
  EXPECT_EQ(choice.select.protect_first, expected.protect_first);
  EXPECT_EQ(choice.select.tau, expected.tau);
}

INSTANTIATE_TEST_SUITE_P(Calls, Choose, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Choose, HandsOutBlocksForCallsThatTheProfileChanges) {
  Profile p = profile();
  p.blocks.pattern = BlockPattern::kFlex;
  for (LayerSelect& group : p.layer_select) group.blocks.pattern = BlockPattern::kPooled;
  const auto pattern = [&p](const LayerCall& call) { return choose(p, call).blocks.pattern; };
  EXPECT_EQ(pattern({2, 8192, 8192}), BlockPattern::kFlex);
  EXPECT_EQ(pattern({5, 8192, 8192}), BlockPattern::kPooled);
  EXPECT_EQ(pattern({6, 1024, 8192}), BlockPattern::kPooled) << "a chunk with local fill";
  EXPECT_EQ(pattern({2, 2048, 8192}), BlockPattern::kNone) << "all queries, selected keys";
  EXPECT_EQ(pattern({3, 8192, 8192}), BlockPattern::kNone);
  EXPECT_EQ(pattern({2, 4095, 4095}), BlockPattern::kNone);
  EXPECT_EQ(pattern({6, 511, 8192}), BlockPattern::kNone);
  EXPECT_EQ(pattern({2, 8192, 8192, false}), BlockPattern::kNone);
  // Without selection they are alone, in chunks too.
  p.select.enabled = false;
  EXPECT_EQ(choose(p, {2, 8192, 8192}).reason, DenseReason::kDisabled);
  EXPECT_EQ(pattern({2, 8192, 8192}), BlockPattern::kFlex);
  EXPECT_EQ(pattern({2, 2048, 8192}), BlockPattern::kFlex);
  EXPECT_EQ(pattern({2, 4095, 4095}), BlockPattern::kNone);
  EXPECT_EQ(pattern({2, 8192, 8192, false}), BlockPattern::kNone);
}

TEST(Choose, KeepsThePoliciesOfTheCall) {
  Profile off = profile();
  off.select.enabled = false;
  EXPECT_EQ(choose(off, {2, 8192, 8192}).reason, DenseReason::kDisabled);
  Profile never = profile();
  never.select.dense_policy = DensePolicy::kNever;
  never.select.queries = Queries::kAll;  // follows from the call instead
  const SelectConfig select = choose(never, {2, 8192, 8192}).select;
  EXPECT_EQ(select.dense_policy, DensePolicy::kNever);
  EXPECT_EQ(select.queries, Queries::kKept);
}

TEST(DefaultProfile, MakesTheUpperHalfSparse) {
  const Profile profile = default_profile({"llama", 7, 9, 3, 64});
  EXPECT_EQ(profile.sparse_layers, (std::vector<int32_t>{3, 4, 5, 6}));
  EXPECT_EQ(profile.select.budget, BudgetPolicy::kKeepRatio);
  EXPECT_EQ(profile.select.keep_ratio, 0.2);
  EXPECT_EQ(profile.select.share, Share::kLayer);
  EXPECT_EQ(profile.select.fill, Fill::kLocal);
  EXPECT_TRUE(check_fingerprint(profile, {"llama", 7, 9, 3, 64}).ok());
  EXPECT_FALSE(check_fingerprint(profile, {"llama", 8, 9, 3, 64}).ok());
  EXPECT_TRUE(parse_profile(profile_to_json(profile), "default").ok());
}

TEST(DefaultProfile, OfAModelOfOneOrNoLayerIsDense) {
  EXPECT_EQ(default_profile({.num_layers = 2}).sparse_layers, (std::vector<int32_t>{1}));
  EXPECT_TRUE(default_profile({.num_layers = 1}).sparse_layers.empty());
  EXPECT_TRUE(default_profile({}).sparse_layers.empty());
}

TEST(Choose, ProductsAreTheProfilesInEveryCall) {
  Profile p = profile();
  EXPECT_EQ(choose(p, {2, 8192, 8192}).products, Products::kAuto);
  p.products = Products::kSplit;
  for (const int32_t layer : {0, 2}) {
    for (const int64_t queries : {1, 8192}) {
      EXPECT_EQ(choose(p, {layer, queries, 8192}).products, Products::kSplit);
    }
  }
}

}  // namespace
}  // namespace tokensieve
