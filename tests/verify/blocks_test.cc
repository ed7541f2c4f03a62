// Goldens of block masks: the committed one passes, hand-made official ones are read as documented,
// and each kind of damage is noticed.
#include "verify/blocks.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <span>
#include <string_view>

#include "support/safetensors_writer.h"
#include "verify/block_entries.h"
#include "verify/sha256.h"
#include "verify/verify.h"

namespace tokensieve::verify {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kGolden = std::string(TOKENSIEVE_SOURCE_DIR) + "/tests/golden/blocks";

// FIPS 180-4's examples.
TEST(Sha256, KnownMessages) {
  const auto sum = [](std::initializer_list<std::string_view> parts) {
    Sha256 hash;
    for (std::string_view part : parts) hash.add(std::as_bytes(std::span(part)));
    return hash.hex();
  };
  EXPECT_EQ(sum({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sum({"abc"}), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  const std::string expected = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
  EXPECT_EQ(sum({two_blocks}), expected);
  EXPECT_EQ(sum({two_blocks.substr(0, 3), "", two_blocks.substr(3, 50), two_blocks.substr(53)}),
            expected);
  const std::string a(500000, 'a');
  EXPECT_EQ(sum({a, a}), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(BlockGolden, TheCommittedOnePasses) { EXPECT_EQ(run_verify({.dir = kGolden}), 0); }

class BlockGoldenTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "blocks_test_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path() const { return (folder_ / "official_small.safetensors").string(); }
  // 640 tokens, 5 tiles.
  Result<BlockGolden> load(const test::SafeTensorsWriter& writer,
                           const std::string& json = R"({"n":640,"heads":[1,1],"seed":3})") {
    writer.write(path());
    std::ofstream(folder_ / "official_small.json") << json;
    return load_block_golden(path());
  }
  int verify() const { return run_verify({.dir = folder_.string(), .backends = {"ref"}}); }

  fs::path folder_;
};

test::SafeTensorsWriter with_mask(const std::string& name, const std::vector<uint8_t>& mask) {
  test::SafeTensorsWriter writer;
  writer.add(name + ".mask", "BOOL", {1, 5, 5}, mask);
  return writer;
}

// Masks of the oracle for what the entry asks.
std::vector<uint8_t> own_mask(const BlockGolden& golden) {
  const BlockEntry& entry = golden.entries.at(0);
  const Plan plan = golden.plan_of(entry, {.backend = Backend::kRef}).value();
  BlockCall call(golden, entry, plan);
  EXPECT_TRUE(estimate_blocks(plan, call.inputs(), call.mask(), {}).ok());
  std::vector<uint8_t> mask;
  for (uint32_t row : call.bits) {
    for (int c = 0; c < 5; ++c) mask.push_back(row >> c & 1);
  }
  return mask;
}

TEST_F(BlockGoldenTest, NoticesEveryKindOfDamage) {
  const std::string name = "flexprefill_g0.6_t0_b128";
  const BlockGolden read = load(with_mask(name, std::vector<uint8_t>(25))).value();
  EXPECT_EQ(read.entries[0].blocks.gamma, 0.6);
  EXPECT_EQ(read.entries[0].blocks.flex_tau, 0.0);
  EXPECT_EQ(read.entries[0].blocks.min_budget, 128);
  std::vector<uint8_t> mask = own_mask(read);
  ASSERT_TRUE(load(with_mask(name, mask)).ok());
  EXPECT_EQ(verify(), 0);
  mask[5 * 4 + 2] ^= 1;
  ASSERT_TRUE(load(with_mask(name, mask)).ok());
  EXPECT_EQ(verify(), 1) << "one of 15 tiles";
  mask[5 * 4 + 2] ^= 1;
  mask[3] ^= 1;
  ASSERT_TRUE(load(with_mask(name, mask)).ok());
  EXPECT_EQ(verify(), 0) << "a tile above the diagonal does not count";

  const std::string sum = read.inputs.sha256();
  const auto described = [](const std::string& hash) {
    return fmt::format(R"({{"n":640,"heads":[1,1],"seed":3,"inputs_sha256":"{}"}})", hash);
  };
  ASSERT_TRUE(load(with_mask(name, mask), described(sum)).ok());
  EXPECT_EQ(verify(), 0);
  std::string other = sum;
  other[0] = sum[0] == '0' ? '1' : '0';
  ASSERT_TRUE(load(with_mask(name, mask), described(other)).ok());
  EXPECT_EQ(verify(), 1);

  for (bool damaged : {false, true}) {
    test::SafeTensorsWriter writer = with_mask(name, mask);
    std::vector<uint16_t> k = read.inputs.k;
    k[1234] ^= damaged;
    writer.add("q", "BF16", {1, 640, 128}, read.inputs.q);
    writer.add("k", "BF16", {1, 640, 128}, k);
    writer.add("v", "BF16", {1, 640, 128}, read.inputs.v);
    ASSERT_TRUE(load(writer).ok());
    EXPECT_EQ(verify(), damaged ? 1 : 0);
  }
}

// Row 3 of the scores, threshold .85 of 2: tiles 0 and 3 hold 1.2, tile 2 makes 1.8. By the rule of
// a first chunk tile 3 holds .2, and 1.0 and .6 make 1.8; one more is taken.
TEST_F(BlockGoldenTest, OfficialScoresDecideByOurRule) {
  std::vector<float> scores(25, 0.0f);
  std::vector<uint8_t> mask(25, 0);
  const auto set_row = [&](int64_t t, std::vector<float> row, std::vector<uint8_t> official) {
    std::copy(row.begin(), row.end(), scores.begin() + 5 * t);
    std::copy(official.begin(), official.end(), mask.begin() + 5 * t);
  };
  set_row(0, {2}, {1});
  set_row(1, {1, 1}, {1, 1});
  set_row(2, {0.25, 0.25, 1.5}, {1, 1, 1});
  set_row(3, {1.0, 0.2, 0.6, 0.2}, {1, 1, 1, 1});
  set_row(4, {0.0, 0.125, 1.0, 0.625, 0.25}, {1, 1, 1, 1, 1});
  test::SafeTensorsWriter writer = with_mask("xattention_s16_t0.85", mask);
  writer.add("xattention_s16_t0.85.scores", "F32", {1, 5, 5}, scores);
  const BlockGolden golden = load(writer).value();
  ASSERT_EQ(golden.entries.size(), 1u);
  const BlockEntry& entry = golden.entries[0];
  EXPECT_EQ(entry.blocks.stride, 16);
  EXPECT_EQ(entry.blocks.threshold, 0.85);
  const auto row = [&](int64_t t) {
    return std::vector<int>(entry.expected.begin() + 5 * t, entry.expected.begin() + 6 * t + 1);
  };
  EXPECT_THAT(row(0), ElementsAre(1));
  EXPECT_THAT(row(1), ElementsAre(1, 1));
  EXPECT_THAT(row(2), ElementsAre(1, 0, 1));
  EXPECT_THAT(row(3), ElementsAre(1, 0, 1, 1));
  EXPECT_THAT(row(4), ElementsAre(1, 0, 1, 1, 1));
  // Tile (2, 1): .05 of 2 beyond the threshold of 1.7. (4, 1): .175 beyond; (4, 3): .45 before it
  // and .5 away from (4, 1), with which it could swap.
  EXPECT_NEAR(entry.margin[5 * 2 + 1], 0.05 / 2, 1e-7);
  EXPECT_NEAR(entry.margin[5 * 4 + 1], 0.175 / 2, 1e-7);
  EXPECT_NEAR(entry.margin[5 * 4 + 3], 0.45 / 2, 1e-7);
  EXPECT_TRUE(std::isinf(entry.margin[5 * 4 + 4])) << "forced";
  ASSERT_EQ(golden.checks.size(), 1u);
  EXPECT_EQ(golden.checks[0].error, 0.0) << golden.checks[0].detail;
}

// Scores that leave out what our inputs choose in row 4, and choose the others.
TEST_F(BlockGoldenTest, TilesFarFromTheirThresholdMustBeEqual) {
  const std::string name = "xattention_s16_t0.5";
  const auto with_scores = [&](const std::vector<float>& scores) {
    test::SafeTensorsWriter writer = with_mask(name, std::vector<uint8_t>(25, 1));
    writer.add(name + ".scores", "F32", {1, 5, 5}, scores);
    return load(writer).value();
  };
  const std::vector<uint8_t> own = own_mask(with_scores(std::vector<float>(25, 1.0f)));
  std::vector<float> scores(25, 0.0f);
  for (int t = 0; t < 5; ++t) scores[5 * t + t] = 1.0f;
  for (int c = 1; c < 4; ++c) scores[5 * 4 + c] = own[5 * 4 + c] ? 0.0f : 2.0f * c;
  const BlockGolden golden = with_scores(scores);
  const auto executor = make_thread_pool(1);
  const Check check =
      check_blocks(golden, golden.entries[0], Backend::kRef, Isa::kAuto, *executor).value();
  EXPECT_FALSE(check.ok());
  EXPECT_THAT(check.detail, HasSubstr("differ far from their threshold"));
}

// Distances 0 to 99 and 300 of 640 tokens: two tiles a row tile, and up to two more from row 300 on.
// Columns 0 to 29 are in tile 0, which row tile 4 does not visit; 400 is in tile 3, which it does.
TEST_F(BlockGoldenTest, LinesBecomeTilesAndTheirDensity) {
  std::vector<int32_t> verticals(31, 400), distances(101, 300);
  std::iota(verticals.begin(), verticals.begin() + 30, 0);
  std::iota(distances.begin(), distances.begin() + 100, 0);
  const std::string name = "minference_v31_s101";
  const auto with_lines = [&] {
    test::SafeTensorsWriter writer;
    writer.add(name + ".verticals", "I32", {1, 31}, verticals);
    writer.add(name + ".distances", "I32", {1, 101}, distances);
    return load(writer);
  };
  const BlockGolden golden = with_lines().value();
  const BlockEntry& entry = golden.entries.at(0);
  EXPECT_EQ(entry.blocks.pattern, BlockPattern::kVerticalSlash);
  EXPECT_EQ(entry.blocks.verticals, 31);
  EXPECT_EQ(entry.blocks.slashes, 101);
  EXPECT_THAT(entry.expected, ElementsAre(1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0,  //
                                          1, 1, 1, 1, 0, 0, 1, 1, 1, 1));
  EXPECT_DOUBLE_EQ(entry.density, (14 + 30 / 128.0) / 15);
  EXPECT_EQ(verify(), 1) << "not what these inputs attend to";
  distances[3] = 640;
  EXPECT_THAT(std::string(with_lines().status().message()),
              HasSubstr("\"minference_v31_s101.distances\" is not [1, count] of values in "
                        "[0, 640)"));
}

TEST_F(BlockGoldenTest, GatesBecomeScoresOfLargerTiles) {
  std::vector<float> gate(100, 0.0f);
  std::vector<uint8_t> by_threshold(100, 0);
  for (int t = 0; t < 10; ++t) {
    for (int c = 0; c <= t; ++c) {
      gate[10 * t + c] = t == 5 && c == 3 ? 0.75f : 0.25f;
      by_threshold[10 * t + c] = (t == 5 && c == 3) || t >= 8;
    }
  }
  gate[10 * 4 + 5] = 1.0f;  // above the diagonal
  test::SafeTensorsWriter writer;
  writer.add("seer_t0.5_r0.2.gate", "F32", {1, 10, 10}, gate);
  writer.add("seer_t0.5_r0.2.by_threshold", "BOOL", {1, 10, 10}, by_threshold);
  writer.add("seer_t0.5_r0.2.by_ratio", "BOOL", {1, 10, 10}, by_threshold);
  const BlockGolden golden = load(writer).value();
  ASSERT_EQ(golden.entries.size(), 2u);
  EXPECT_EQ(golden.entries[0].blocks.threshold, 0.5);
  EXPECT_EQ(golden.entries[0].scores[5 * 2 + 1], 0.75f);
  EXPECT_EQ(golden.entries[0].scores[5 * 2 + 2], 0.25f);
  EXPECT_THAT(golden.entries[1].not_covered, HasSubstr("share of a row's tiles"));
  EXPECT_EQ(verify(), 0);
}

TEST_F(BlockGoldenTest, WhatIsNotCoveredSaysWhy) {
  const std::vector<uint8_t> mask(25, 0);
  test::SafeTensorsWriter writer;
  for (const char* name : {"minference_blocks_k10", "xattention_s16_t0.9_torch_chunk2048",
                           "another_g1", "tokens_flexprefill_g0.9_t0.1_b128"}) {
    writer.add(std::string(name) + ".mask", "BOOL", {1, 5, 5}, mask);
  }
  writer.add("flashprefill2_a0.1.mask", "BOOL", {1, 20, 5}, std::vector<uint8_t>(100));
  const BlockGolden golden = load(writer).value();
  std::vector<std::string> reasons;
  for (const BlockEntry& entry : golden.entries) reasons.push_back(entry.not_covered);
  EXPECT_THAT(reasons, ElementsAre("no such estimator", HasSubstr("128 rows of a group's heads"),
                                   "no such estimator", HasSubstr("tokens.indices"),
                                   HasSubstr("masks all chunks before the last out")));
  EXPECT_EQ(verify(), 0);
}

TEST_F(BlockGoldenTest, MalformedFilesAreNamedAndFail) {
  const auto message = [&](const test::SafeTensorsWriter& writer, const std::string& json) {
    const Result<BlockGolden> golden = load(writer, json);
    EXPECT_EQ(verify(), 1);
    return std::string(golden.status().message());
  };
  const test::SafeTensorsWriter good =
      with_mask("flashprefill1_a0.5", std::vector<uint8_t>(25, 1));
  EXPECT_THAT(message(good, "{"), HasSubstr("official_small.json is not valid JSON"));
  EXPECT_THAT(message(good, R"({"n":640,"seed":1})"), HasSubstr("heads is missing"));
  EXPECT_THAT(message(good, R"({"n":639,"heads":[1,1],"seed":1})"), HasSubstr("n is 639"));
  EXPECT_THAT(message(good, R"({"n":2000000,"heads":[1,1],"seed":1})"), HasSubstr("n is 2000000"));
  for (const char* heads : {"[0,1]", "[4,3]", "[4,0]", "[5000,1]"}) {
    EXPECT_THAT(message(good, fmt::format(R"({{"n":640,"seed":1,"heads":{}}})", heads)),
                HasSubstr(fmt::format("heads is {}", heads)));
  }
  const std::string described = R"({"n":768,"heads":[1,1],"seed":1})";
  EXPECT_THAT(message(good, described), HasSubstr("\"flashprefill1_a0.5.mask\" is not [1, 6, 6]"));
  test::SafeTensorsWriter short_q;
  short_q.add("q", "BF16", {1, 2, 128}, std::vector<uint16_t>(256));
  EXPECT_THAT(message(short_q, described), HasSubstr("\"q\" is not of the size"));
  test::SafeTensorsWriter few;
  few.add("tokens.indices", "I32", {1, 100}, std::vector<int32_t>(100));
  EXPECT_THAT(message(few, described), HasSubstr("tokens.indices"));
  fs::remove(folder_ / "official_small.json");
  EXPECT_THAT(std::string(load_block_golden(path()).status().message()),
              HasSubstr("official_small.json, which must say n, heads and seed"));
}

// What a backend's plan refuses as unsupported is no failure; what it refuses otherwise is.
TEST_F(BlockGoldenTest, PlansThatABackendDoesNotHave) {
  const BlockGolden golden =
      load(with_mask("flashprefill1_a0.5", std::vector<uint8_t>(25, 1))).value();
  const auto executor = make_thread_pool(1);
  const auto check = [&](const BlockEntry& entry) {
    return check_blocks(golden, entry, Backend::kRef, Isa::kAuto, *executor);
  };
  EXPECT_TRUE(check(golden.entries[0]).ok());
  BlockEntry entry = golden.entries[0];
  entry.blocks.alpha = 2;
  ASSERT_TRUE(check(entry).ok());
  EXPECT_THAT(check(entry)->detail, HasSubstr("blocks.alpha is 2"));
  EXPECT_FALSE(check(entry)->ok());
  if (backend_compiled(Backend::kCuda)) return;
  const Result<Check> absent =
      check_blocks(golden, golden.entries[0], Backend::kCuda, Isa::kAuto, *executor);
  EXPECT_EQ(absent.status().code(), StatusCode::kUnsupported);
}

// Sets that no selection can make are refused by the call's own checks.
TEST_F(BlockGoldenTest, ImpossibleTokensFail) {
  test::SafeTensorsWriter writer =
      with_mask("flashprefill1_a0.5", std::vector<uint8_t>(25, 1));
  std::vector<int32_t> tokens(200);
  for (int32_t i = 0; i < 200; ++i) tokens[i] = 440 + i;
  tokens[3] = 7;
  writer.add("tokens.indices", "I32", {1, 200}, tokens);
  writer.add("tokens_flashprefill1_a0.5.mask", "BOOL", {1, 2, 2}, std::vector<uint8_t>(4, 1));
  ASSERT_TRUE(load(writer).ok());
  EXPECT_EQ(verify(), 1);
}

}  // namespace
}  // namespace tokensieve::verify
