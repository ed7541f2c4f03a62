// Block masks that make no sense: each is refused with the value and what is allowed.
#include <cmath>
#include <functional>
#include <string>

#include "core/expect_error.h"
#include "support/case_data.h"
#include "tokensieve/attention.h"

namespace tokensieve {
namespace {

using test::expect_error;
using enum BlockPattern;
constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;

struct Call {
  AttentionShape shape{.seqlen_q = 600, .seqlen_kv = 600, .num_q_heads = 4, .num_kv_heads = 2,
                       .head_dim = 16};
  SelectConfig select{.enabled = false};
  BlockConfig blocks;
  PlanOptions options{.backend = Backend::kRef};

  Result<Plan> plan() const { return make_plan(shape, select, blocks, options); }
};

struct BadParameter {
  std::string name;
  BlockPattern pattern;
  std::function<void(Call&)> break_it;
  std::vector<std::string> pieces;  // of the message
  StatusCode code = kInvalid;
};

void PrintTo(const BadParameter& bad, std::ostream* os) { *os << bad.name; }

class BadBlocks : public testing::TestWithParam<BadParameter> {};

TEST_P(BadBlocks, AreRefusedWithValueAndAllowed) {
  Call call;
  call.blocks.pattern = GetParam().pattern;
  ASSERT_TRUE(call.plan().ok());
  GetParam().break_it(call);
  expect_error(call.plan().status(), GetParam().code, GetParam().pieces);
}

template <typename T>
BadParameter field(const char* name, BlockPattern pattern, T BlockConfig::* member, T value,
                   std::vector<std::string> pieces) {
  return {std::string(name) + "_" + std::to_string(static_cast<int>(pattern)) + pieces[0], pattern,
          [member, value](Call& c) { c.blocks.*member = value; },
          {"blocks." + std::string(name) + " is " + pieces[0], "allowed: " + pieces[1]}};
}

std::vector<BadParameter> bad_parameters() {
  const std::string share = "[0, 1]", tokens = ">= 0, at most 2^31";
  std::vector<BadParameter> bad = {
      field("gamma", kFlex, &BlockConfig::gamma, -0.1, {"-0.1", share}),
      field("gamma", kFlex, &BlockConfig::gamma, 1.5, {"1.5", share}),
      field("gamma", kFlex, &BlockConfig::gamma, std::nan(""), {"nan", share}),
      field("flex_tau", kFlex, &BlockConfig::flex_tau, 2.5, {"2.5", "[0, 2]"}),
      field("flex_tau", kFlex, &BlockConfig::flex_tau, std::nan(""), {"nan", "[0, 2]"}),
      field("min_budget", kFlex, &BlockConfig::min_budget, int64_t{-1}, {"-1", tokens}),
      field("max_budget", kFlex, &BlockConfig::max_budget, int64_t{-7}, {"-7", tokens}),
      field("max_budget", kFlex, &BlockConfig::max_budget, int64_t{1} << 40,
            {"1.09951e+12", tokens}),
      field("threshold", kAntidiagonal, &BlockConfig::threshold, 1.01, {"1.01", share}),
      field("threshold", kScores, &BlockConfig::threshold, -1.0, {"-1", share}),
      field("threshold", kScores, &BlockConfig::threshold, std::nan(""), {"nan", share}),
      field("alpha", kPooled, &BlockConfig::alpha, -0.5, {"-0.5", share}),
      field("alpha", kPooled, &BlockConfig::alpha, double{INFINITY}, {"inf", share}),
      field("sink_tiles", kPooled, &BlockConfig::sink_tiles, -1, {"-1", ">= 0, at most 2^24"}),
      field("window_tiles", kPooled, &BlockConfig::window_tiles, 0, {"0", ">= 1, at most 2^24"}),
      field("verticals", kVerticalSlash, &BlockConfig::verticals, int64_t{-1}, {"-1", tokens}),
      field("slashes", kVerticalSlash, &BlockConfig::slashes, int64_t{-5}, {"-5", tokens}),
      field("slash_ratio", kVerticalSlash, &BlockConfig::slash_ratio, 1.5, {"1.5", share}),
      field("slash_ratio", kVerticalSlash, &BlockConfig::slash_ratio, std::nan(""), {"nan", share}),
      field("last_tiles", kPooled, &BlockConfig::last_tiles, -2, {"-2", ">= 0, at most 2^24"}),
  };
  for (int32_t stride : {0, 7, 9, 12, 33, 64, -8}) {
    bad.push_back(field("stride", kAntidiagonal, &BlockConfig::stride, stride,
                        {std::to_string(stride), "8, 16 or 32"}));
  }
  for (BlockPattern pattern : {kGiven, kScores, kFlex, kPooled, kAntidiagonal, kVerticalSlash}) {
    bad.push_back(field("dense_rows", pattern, &BlockConfig::dense_rows, int64_t{-1},
                        {"-1", tokens}));
  }
  bad.push_back({"pattern", kFlex, [](Call& c) { c.blocks.pattern = BlockPattern(17); },
                 {"blocks.pattern is 17", "allowed: none, given, scores, flex, pooled"}});
  bad.push_back({"share", kPooled, [](Call& c) { c.blocks.share = Share(9); },
                 {"blocks.share is 9", "allowed: head, kv, layer"}});
  bad.push_back({"not_causal", kFlex, [](Call& c) { c.shape.causal = false; },
                 {"blocks.pattern is flex and causal is false"}});
  bad.push_back({"queries_all", kAntidiagonal,
                 [](Call& c) {
                   c.select = {.queries = Queries::kAll};
                   c.shape.seqlen_q = 300;
                 },
                 {"antidiagonal with queries = all", "queries = kept"}, StatusCode::kUnsupported});
  bad.push_back({"packed_scores", kScores, [](Call& c) { c.shape.packed = true; },
                 {"scores and the sequences are packed", "one by one"}, StatusCode::kUnsupported});
  bad.push_back({"layer_of_ranks", kPooled,
                 [](Call& c) {
                   c.blocks.share = Share::kLayer;
                   c.options.num_ranks = 2;
                 },
                 {"blocks.share is layer", "split over 2 ranks", "use kv or head"},
                 StatusCode::kUnsupported});
  bad.push_back({"more_tiles_than_bytes_can_count", kFlex,
                 [](Call& c) {
                   c.shape.batch = 32;
                   c.shape.seqlen_q = c.shape.seqlen_kv = 2147483647;
                   c.shape.num_q_heads = c.shape.num_kv_heads = 4096;
                 },
                 {"batch 32, 4096 heads", "allowed: at most 2^58"}});
  return bad;
}

INSTANTIATE_TEST_SUITE_P(All, BadBlocks, testing::ValuesIn(bad_parameters()));

// A field that the pattern does not read may hold anything.
TEST(Blocks, UnreadFieldsAreNotChecked) {
  for (BlockPattern pattern : {kNone, kGiven, kFlex, kAntidiagonal}) {
    Call call;
    call.blocks = {.pattern = pattern, .alpha = -3, .sink_tiles = -1, .window_tiles = 0};
    EXPECT_TRUE(call.plan().ok());
  }
}

TEST(Blocks, PlansSayWhatAMaskHolds) {
  for (const auto& [share, masks] :
       {std::pair{Share::kHead, 4}, {Share::kKv, 2}, {Share::kLayer, 1}}) {
    Call call;
    call.shape.seqlen_q = 129;
    call.shape.seqlen_kv = 32 * 128 + 1;
    call.blocks = {.pattern = kGiven, .share = share};
    const Plan plan = call.plan().value();
    EXPECT_EQ(plan.num_masks, masks);
    EXPECT_EQ(plan.row_tiles, 2);
    EXPECT_EQ(plan.mask_words, 2);
    call.blocks.pattern = kFlex;
    call.select.dense_policy = DensePolicy::kNever;
    EXPECT_EQ(call.plan().value().num_masks, 4) << "flex has masks per head only";
  }
  Call call;
  EXPECT_EQ(call.plan().value().num_masks, 0);
}

// A good call with a mask, to be broken in one place.
class BadMasks : public testing::Test {
 protected:
  void make(BlockPattern pattern, bool select = false) {
    call_.blocks = {.pattern = pattern};
    call_.select = {.enabled = select, .budget = BudgetPolicy::kKeepCount, .keep_count = 50,
                    .min_keep = 0, .dense_policy = DensePolicy::kNever};
    plan_ = call_.plan().value();
    bits_.assign(plan_.num_masks * plan_.row_tiles * plan_.mask_words, ~0u);
    mask_ = {bits_.data(), plan_.row_tiles, plan_.mask_words, plan_.num_masks};
    scores_.assign(plan_.num_masks * plan_.row_tiles * 5, 1.0f);
    in_ = data_.inputs();
    if (pattern == kGiven) in_.block_mask = mask_;
    if (pattern == kScores) in_.block_scores = scores_.data();
  }
  Status run_it() { return run(plan_, in_, data_.outputs(), {}); }
  Status estimate_it() { return estimate_blocks(plan_, in_, mask_, {}); }
  void expect_invalid(const Status& status, const std::vector<std::string>& pieces) {
    expect_error(status, kInvalid, pieces);
  }

  Call call_;
  test::CaseData data_ = test::make_data({"masks", call_.shape}, 1);
  Plan plan_;
  std::vector<uint32_t> bits_;
  std::vector<float> scores_;
  BlockMask mask_;
  AttentionInputs in_;
};

TEST_F(BadMasks, GoodCallsWork) {
  for (BlockPattern pattern : {kGiven, kScores, kFlex, kPooled, kAntidiagonal, kVerticalSlash}) {
    make(pattern);
    EXPECT_TRUE(run_it().ok()) << run_it().message();
    if (pattern == kGiven) continue;
    EXPECT_TRUE(estimate_it().ok()) << estimate_it().message();
  }
}

TEST_F(BadMasks, GivenMask) {
  make(kGiven);
  in_.block_mask.bits = nullptr;
  expect_invalid(run_it(), {"block_mask.bits is null"});
  make(kGiven);
  in_.block_mask.bits = reinterpret_cast<uint32_t*>(reinterpret_cast<char*>(bits_.data()) + 1);
  expect_invalid(run_it(), {"block_mask.bits is not aligned to 4 bytes"});
  const std::string needs = "the plan needs 4 x 5 x 1";
  make(kGiven);
  in_.block_mask.num_masks = 2;
  expect_invalid(run_it(), {"block_mask has 2 masks of 5 row tiles x 1 words", needs});
  make(kGiven);
  in_.block_mask.row_tiles = 4;
  expect_invalid(run_it(), {"4 masks of 4 row tiles x 1 words", needs});
  make(kGiven);
  in_.block_mask.words = 2;
  expect_invalid(run_it(), {"4 masks of 5 row tiles x 2 words", needs});
}

TEST_F(BadMasks, WhatThePatternDoesNotRead) {
  const float thresholds[4] = {};
  for (BlockPattern pattern : {kNone, kScores, kFlex}) {
    make(pattern);
    in_.block_mask = {bits_.data(), 5, 1, 4};
    uint32_t word = 0;
    in_.block_mask.bits = &word;
    expect_invalid(run_it(), {"block_mask was given", "pattern is", "make the plan with"});
  }
  for (BlockPattern pattern : {kGiven, kPooled}) {
    make(pattern);
    in_.block_scores = thresholds;
    expect_invalid(run_it(), {"block_scores was given"});
  }
  make(kGiven);
  in_.block_thresholds = thresholds;
  expect_invalid(run_it(), {"block_thresholds was given", "pattern is given"});
  make(kVerticalSlash);
  in_.block_thresholds = thresholds;
  expect_invalid(run_it(), {"block_thresholds was given", "pattern is vertical_slash"});
  const int32_t sizes[8] = {};
  for (BlockPattern pattern : {kGiven, kFlex}) {
    make(pattern);
    in_.block_sizes = sizes;
    expect_invalid(run_it(), {"block_sizes was given", "pattern is"});
  }
}

TEST_F(BadMasks, Sizes) {
  make(kVerticalSlash);
  int32_t sizes[8] = {0, 0, 1000, 100000, 30, 30, 30, 30};
  in_.block_sizes = sizes;
  EXPECT_TRUE(run_it().ok()) << run_it().message();
  sizes[5] = -2;
  expect_invalid(run_it(), {"block_sizes[2] is {30, -2}", "allowed: >= 0"});
  expect_invalid(estimate_it(), {"block_sizes[2] is {30, -2}"});
  sizes[5] = 2;
  sizes[6] = 1001;
  expect_invalid(run_it(), {"block_sizes[3] has 1001 verticals", "blocks.verticals", "is 1000"});
  sizes[6] = 0;
  plan_.blocks.slash_ratio = 0.1;
  expect_invalid(run_it(), {"block_sizes was given and blocks.slash_ratio is 0.1"});
}

// A good mask of it would need the columns, too.
TEST(Blocks, BackendsWithoutColumnsRefuseVerticalSlash) {
  if (!backend_compiled(Backend::kCuda)) GTEST_SKIP() << "without cuda";
  Call call;
  call.blocks.pattern = kVerticalSlash;
  call.options.backend = Backend::kCuda;
  expect_error(call.plan().status(), StatusCode::kUnsupported,
               {"backend cuda has no vertical_slash", "use flex"});
}

// The distances alone hold most pairs of a short prompt.
TEST(Blocks, VerticalSlashWithMostDistancesIsDense) {
  Call call;
  call.options.backend = Backend::kCpu;
  call.select.enabled = false;
  call.shape.seqlen_q = call.shape.seqlen_kv = 8192;
  call.blocks.pattern = kVerticalSlash;
  EXPECT_EQ(call.plan().value().blocks.pattern, kNone);
  call.blocks.slashes = 1000;
  EXPECT_EQ(call.plan().value().blocks.pattern, kVerticalSlash);
  call.blocks.slashes = 6096;
  call.shape.seqlen_q = call.shape.seqlen_kv = 65536;
  EXPECT_EQ(call.plan().value().blocks.pattern, kVerticalSlash);
}

TEST_F(BadMasks, Scores) {
  make(kScores);
  in_.block_scores = nullptr;
  expect_invalid(run_it(), {"block_scores is null", "pattern is scores"});
  expect_invalid(estimate_it(), {"block_scores is null"});
}

TEST_F(BadMasks, Thresholds) {
  make(kFlex);
  for (float value : {-0.25f, 1.5f, NAN}) {
    const float thresholds[4] = {0, 1, value, 2};
    in_.block_thresholds = thresholds;
    const std::string text = std::isnan(value) ? "nan" : value < 0 ? "-0.25" : "1.5";
    expect_invalid(run_it(), {"block_thresholds[2] is " + text, "allowed: [0, 1]"});
    expect_invalid(estimate_it(), {"block_thresholds[2] is " + text});
  }
}

// Nobody knows the tiles of tokens that are yet to be chosen.
TEST_F(BadMasks, SelectionWithoutGivenSets) {
  make(kGiven, /*select=*/true);
  expect_invalid(run_it(), {"block_mask was given to a plan that selects tokens", "inputs.keep",
                            "call select_tokens first"});
  make(kScores, true);
  expect_invalid(run_it(), {"block_scores was given to a plan that selects tokens"});
  make(kFlex, true);
  EXPECT_TRUE(run_it().ok());
  expect_invalid(estimate_it(), {"estimate_blocks", "without inputs.keep"});
}

TEST_F(BadMasks, EstimateBlocks) {
  for (BlockPattern pattern : {kNone, kGiven}) {
    make(pattern);
    expect_invalid(estimate_it(), {"estimate_blocks needs a plan that estimates a block mask",
                                   pattern == kNone ? "pattern is none" : "pattern is given"});
  }
  make(kFlex);
  in_.v = {};
  EXPECT_TRUE(estimate_it().ok()) << "v is not read";
  mask_.bits = nullptr;
  expect_invalid(estimate_it(), {"mask.bits is null"});
  mask_.bits = static_cast<uint32_t*>(in_.q.data);
  expect_invalid(estimate_it(), {"mask.bits overlaps q"});
  mask_.bits = bits_.data();
  mask_.words = 7;
  expect_invalid(estimate_it(), {"mask has 4 masks of 5 row tiles x 7 words"});
  make(kFlex);
  in_.q.shape[1] = 599;
  expect_invalid(estimate_it(), {"q has shape [1, 599, 4, 16]"});
  make(kFlex);
  std::vector<int32_t> rows(600, 0);
  rows[3] = 600;
  in_.kv_indices = rows.data();
  expect_invalid(estimate_it(), {"kv_indices[3] is 600"});

  call_.shape.packed = true;
  make(kFlex);
  expect_error(estimate_it(), StatusCode::kUnsupported,
               {"estimate_blocks does not take packed plans"});
}

TEST_F(BadMasks, Overlaps) {
  make(kGiven);
  in_.block_mask.bits = static_cast<uint32_t*>(data_.outputs().out.data);
  expect_invalid(run_it(), {"out overlaps block_mask"});
  make(kScores);
  in_.block_scores = data_.outputs().lse;
  expect_invalid(run_it(), {"lse overlaps block_scores"});
}

}  // namespace
}  // namespace tokensieve
