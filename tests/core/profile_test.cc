// Layer profiles: the shipped ones, round trips, and every malformed file.
#include "tokensieve/profile.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <type_traits>

#include "core/expect_error.h"

namespace tokensieve {
namespace {

using test::expect_error;

const char kGood[] = R"({
  "tokensieve_profile": 1,
  "model": "Test-1B",
  "fingerprint": {"architecture": "llama", "num_layers": 8, "num_q_heads": 4, "num_kv_heads": 2,
                  "head_dim": 64},
  "sparse_layers": [2, 3, 7],
  "min_tokens": 2000,
  "select": {"budget": "keep_ratio", "keep_ratio": 0.3, "share": "layer", "fill": "local",
             "local_window": 256, "sinks": 8, "obs_window": 64, "pool_width": 5, "min_keep": 500,
             "protect_first": 4, "min_drop": 0.1, "arithmetic": "fp32"},
  "drift": [0.5, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05]
})";

Profile good() {
  const Result<Profile> profile = parse_profile(kGood, "good.json");
  EXPECT_TRUE(profile.ok()) << profile.status().message();
  return profile.ok() ? *profile : Profile{};
}

std::string replaced(const std::string& from, const std::string& to) {
  std::string text = kGood;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Profile, ReadsEveryField) {
  const Profile p = good();
  EXPECT_EQ(p.model, "Test-1B");
  EXPECT_EQ(p.fingerprint.architecture, "llama");
  EXPECT_EQ(p.fingerprint.num_layers, 8);
  EXPECT_EQ(p.fingerprint.num_q_heads, 4);
  EXPECT_EQ(p.fingerprint.num_kv_heads, 2);
  EXPECT_EQ(p.fingerprint.head_dim, 64);
  EXPECT_EQ(p.sparse_layers, (std::vector<int32_t>{2, 3, 7}));
  EXPECT_EQ(p.min_tokens, 2000);
  EXPECT_EQ(p.drift.size(), 8u);
  const SelectConfig& c = p.select;
  EXPECT_EQ(c.budget, BudgetPolicy::kKeepRatio);
  EXPECT_EQ(c.keep_ratio, 0.3);
  EXPECT_EQ(c.share, Share::kLayer);
  EXPECT_EQ(c.fill, Fill::kLocal);
  EXPECT_EQ(c.local_window, 256);
  EXPECT_EQ(c.sinks, 8);
  EXPECT_EQ(c.obs_window, 64);
  EXPECT_EQ(c.pool_width, 5);
  EXPECT_EQ(c.min_keep, 500);
  EXPECT_EQ(c.protect_first, 4);
  EXPECT_EQ(c.min_drop, 0.1);
}

TEST(Profile, KnowsItsSparseLayers) {
  const Profile p = good();
  for (int32_t layer = -1; layer < 10; ++layer) {
    EXPECT_EQ(p.is_sparse(layer), layer == 2 || layer == 3 || layer == 7) << layer;
  }
}

// kGood with layers that are set apart; `entry` is one of layer_select.
std::string with_layer_select(const std::string& entry) {
  return replaced("\"drift\"", "\"layer_select\": [" + entry + "], \"drift\"");
}

std::string with_blocks(const std::string& object) {
  return replaced("\"drift\"", "\"blocks\": " + object + ", \"drift\"");
}

TEST(Profile, SetsLayersApart) {
  const Result<Profile> profile = parse_profile(
      with_layer_select(R"({"layers": [3], "select": {"keep_ratio": 0.1, "local_window": 64}},
                           {"layers": [6, 7], "select": {"budget": "tau", "tau": 0.02}})"),
      "apart");
  ASSERT_TRUE(profile.ok()) << profile.status().message();
  EXPECT_EQ(profile->select_of(2).keep_ratio, 0.3);
  EXPECT_EQ(profile->select_of(3).keep_ratio, 0.1);
  EXPECT_EQ(profile->select_of(3).local_window, 64);
  EXPECT_EQ(profile->select_of(3).sinks, 8) << "what an entry does not name is common";
  EXPECT_EQ(profile->select_of(7).budget, BudgetPolicy::kTau);
  EXPECT_EQ(profile->select_of(7).tau, 0.02);

  const std::string json = profile_to_json(*profile);
  EXPECT_NE(json.find("layer_select"), std::string::npos);
  const Result<Profile> again = parse_profile(json, "again");
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(profile_to_json(*again), json);
  EXPECT_EQ(again->select_of(3).keep_ratio, 0.1);
  EXPECT_EQ(again->select_of(7).tau, 0.02);
}

TEST(Profile, HoldsBlocks) {
  std::string text = with_layer_select(
      R"({"layers": [3], "blocks": {"gamma": 0.8}},
         {"layers": [6], "select": {"sinks": 2}, "blocks": {"pattern": "none"}},
         {"layers": [7], "blocks": {"pattern": "antidiagonal", "stride": 8, "dense_rows": 128}})");
  text.insert(text.find("\"layer_select\""), R"("blocks": {"pattern": "flex", "gamma": 0.95}, )");
  const Result<Profile> profile = parse_profile(text, "blocks");
  ASSERT_TRUE(profile.ok()) << profile.status().message();
  const std::string json = profile_to_json(*profile);
  const Result<Profile> again = parse_profile(json, "again");
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(profile_to_json(*again), json);
  for (const Profile& p : {*profile, *again}) {
    EXPECT_EQ(p.blocks_of(2).pattern, BlockPattern::kFlex);
    EXPECT_EQ(p.blocks_of(2).gamma, 0.95);
    EXPECT_EQ(p.blocks_of(3).pattern, BlockPattern::kFlex);
    EXPECT_EQ(p.blocks_of(3).gamma, 0.8);
    EXPECT_EQ(p.blocks_of(6).pattern, BlockPattern::kNone);
    EXPECT_EQ(p.select_of(6).sinks, 2);
    EXPECT_EQ(p.blocks_of(7).pattern, BlockPattern::kAntidiagonal);
    EXPECT_EQ(p.blocks_of(7).stride, 8);
    EXPECT_EQ(p.blocks_of(7).dense_rows, 128);
    EXPECT_EQ(p.select_of(7).sinks, 8);
  }
  EXPECT_EQ(profile_to_json(good()).find("blocks"), std::string::npos);
}

TEST(Profile, SurvivesARoundTrip) {
  for (const auto& [from, to] :
       {std::pair{"\"keep_ratio\"", "\"keep_ratio\""},
        {"\"budget\": \"keep_ratio\", \"keep_ratio\": 0.3", "\"budget\": \"tau\", \"tau\": 0.008"},
        {"\"budget\": \"keep_ratio\", \"keep_ratio\": 0.3",
         "\"budget\": \"keep_count\", \"keep_count\": 77"},
        {"\"fill\": \"local\"", "\"fill\": \"zero\""},
        {"\"fp32\"", "\"reference_rounding\""}}) {
    const Result<Profile> first = parse_profile(replaced(from, to), "first");
    ASSERT_TRUE(first.ok()) << first.status().message();
    const std::string json = profile_to_json(*first);
    const Result<Profile> second = parse_profile(json, "second");
    ASSERT_TRUE(second.ok()) << second.status().message();
    EXPECT_EQ(profile_to_json(*second), json);
    EXPECT_EQ(second->select.budget, first->select.budget);
    EXPECT_EQ(second->select.tau, first->select.tau);
    EXPECT_EQ(second->select.arithmetic, first->select.arithmetic);
    EXPECT_EQ(second->sparse_layers, first->sparse_layers);
    EXPECT_EQ(second->drift, first->drift);
    EXPECT_EQ(second->min_tokens, first->min_tokens);
  }
}

TEST(Profile, ShippedOnesAreValidAndCanonical) {
  int count = 0;
  const std::filesystem::path folder = std::filesystem::path(TOKENSIEVE_SOURCE_DIR) / "profiles";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    ++count;
    const Result<Profile> profile = load_profile(entry.path());
    ASSERT_TRUE(profile.ok()) << profile.status().message();
    EXPECT_FALSE(profile->model.empty()) << entry.path();
    EXPECT_FALSE(profile->sparse_layers.empty()) << entry.path();
    EXPECT_GT(profile->fingerprint.num_layers, profile->sparse_layers.back()) << entry.path();
    EXPECT_TRUE(check_fingerprint(*profile, profile->fingerprint).ok());
  }
  EXPECT_GE(count, 4) << "smollm2, smollm2-128k, llama-3.1-8b, mistral-nemo-12b";
}

// Another value than the default that the field allows.
template <typename Field, typename T>
T other_value(const Field& about, const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return !value;
  } else if constexpr (std::is_enum_v<T>) {
    return static_cast<T>(value == T{} ? 1 : 0);
  } else {
    const double least = about.least;
    return static_cast<T>(value == least ? least + (about.most - least) / 4 : least);
  }
}

// Each field of the list alone: profiles read and write it, its ends are allowed, and the manual
// has a row for it.
TEST(SelectFields, AreReadWrittenAndDocumented) {
  std::ifstream manual(std::string(TOKENSIEVE_SOURCE_DIR) + "/docs/profile.md");
  const std::string text(std::istreambuf_iterator<char>(manual), {});
  SelectConfig changed;
  std::vector<std::string> names;
  for_each_field(changed, [&](const SelectField& about, auto& value) {
    using Value = std::remove_cvref_t<decltype(value)>;
    if (about.group == SelectField::Group::kCall) return;
    const Value before = value;
    value = other_value(about, before);
    ASSERT_NE(value, before) << about.name;
    if (about.of_budget) changed.budget = *about.of_budget;
    if (about.of_fill) changed.fill = *about.of_fill;
    Profile profile;
    profile.select = changed;
    const Result<Profile> again = parse_profile(profile_to_json(profile), about.name);
    ASSERT_TRUE(again.ok()) << again.status().message();
    for_each_field(again->select, [&](const SelectField& read, const auto& back) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(back)>, Value>) {
        if (about.name != std::string(read.name)) return;
        EXPECT_EQ(back, value) << about.name;
      }
    });
    EXPECT_THAT(text, testing::HasSubstr(std::string("| `") + about.name + "` |"));
    names.push_back(about.name);
  });
  EXPECT_THAT(names, testing::IsSupersetOf({"budget", "tau", "local_window", "arithmetic"}));
}

TEST(Profile, ProductsAreReadAndWrittenWhereTheyAreNotTheDefault) {
  EXPECT_EQ(good().products, Products::kAuto);
  EXPECT_THAT(profile_to_json(good()), testing::Not(testing::HasSubstr("products")));
  Profile profile = good();
  profile.products = Products::kSplit;
  const Result<Profile> again = parse_profile(profile_to_json(profile), "again");
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(again->products, Products::kSplit);
}

TEST(BlockFields, AreReadWrittenAndDocumented) {
  std::ifstream manual(std::string(TOKENSIEVE_SOURCE_DIR) + "/docs/profile.md");
  const std::string text(std::istreambuf_iterator<char>(manual), {});
  BlockConfig changed;
  int used = 0;
  for (const BlockPattern pattern :
       {BlockPattern::kFlex, BlockPattern::kPooled, BlockPattern::kAntidiagonal,
        BlockPattern::kVerticalSlash}) {
    changed.pattern = pattern;
    for_each_field(changed, [&](const BlockField& about, auto& value) {
      using Value = std::remove_cvref_t<decltype(value)>;
      EXPECT_THAT(text, testing::HasSubstr(std::string("| `") + about.name + "` |"));
      if (std::is_same_v<Value, BlockPattern> || !about.used_by(changed)) return;
      ++used;
      value = other_value(about, value);
      Profile profile;
      profile.blocks = changed;
      const Result<Profile> again = parse_profile(profile_to_json(profile), about.name);
      ASSERT_TRUE(again.ok()) << again.status().message();
      for_each_field(again->blocks, [&](const BlockField& read, const auto& back) {
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(back)>, Value>) {
          if (about.name != std::string(read.name)) return;
          EXPECT_EQ(back, value) << about.name;
        }
      });
    });
  }
  EXPECT_EQ(used, 4 + 5 + 2 + 3 + 4) << "each pattern's own, and dense_rows with each";
}

TEST(BlockFields, AllowWhatTheirWordsSay) {
  const BlockConfig config;
  for_each_field(config, [](const BlockField& about, const auto& value) {
    if (about.allowed == nullptr) return;
    SCOPED_TRACE(about.name);
    for (const double end : {about.least, about.most}) EXPECT_TRUE(about.allows(end));
    EXPECT_FALSE(about.allows(about.least - 1));
    EXPECT_FALSE(about.allows(about.most + 1));
    EXPECT_FALSE(about.allows(std::nan("")));
    EXPECT_EQ(about.allows(about.least + 1), about.only == 0);
    if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(value)>>) {
      EXPECT_TRUE(about.allows(static_cast<double>(value)));
    }
  });
}

TEST(SelectFields, AllowWhatTheirWordsSay) {
  const SelectConfig config;
  for_each_field(config, [](const SelectField& about, const auto& value) {
    if (about.allowed == nullptr) return;
    SCOPED_TRACE(about.name);
    EXPECT_TRUE(about.allows(about.least));
    EXPECT_TRUE(about.allows(about.most - std::fmod(about.most - about.least,
                                                    static_cast<double>(about.step))));
    EXPECT_FALSE(about.allows(about.least - static_cast<double>(about.step)));
    EXPECT_FALSE(about.allows(about.most + static_cast<double>(about.step)));
    EXPECT_FALSE(about.allows(std::nan("")));
    EXPECT_EQ(about.allows(about.least + 1), about.step == 1 && about.most >= about.least + 1);
    if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(value)>>) {
      EXPECT_TRUE(about.allows(static_cast<double>(value)));
    }
  });
}

struct BadText {
  const char* name;
  std::string text;
  std::vector<std::string> pieces;
};
void PrintTo(const BadText& bad, std::ostream* os) { *os << bad.name; }

class BadProfile : public testing::TestWithParam<BadText> {};

TEST_P(BadProfile, IsRefusedByName) {
  const Result<Profile> profile = parse_profile(GetParam().text, "some/file.json");
  std::vector<std::string> pieces = GetParam().pieces;
  pieces.push_back("some/file.json");
  expect_error(profile.status(), StatusCode::kDataError, pieces);
}

INSTANTIATE_TEST_SUITE_P(
    Texts, BadProfile,
    testing::Values(
        BadText{"blocks_given", with_blocks(R"({"pattern": "given"})"),
                {"blocks: pattern is given",
                 "allowed: none, flex, pooled, antidiagonal, vertical_slash"}},
        BadText{"blocks_word", with_blocks(R"({"pattern": "flux"})"),
                {"blocks: pattern is \"flux\"", "none, given, scores, flex"}},
        BadText{"blocks_stride", with_blocks(R"({"pattern": "antidiagonal", "stride": 24})"),
                {"stride is 24", "an integer, 8, 16 or 32"}},
        BadText{"blocks_gamma", with_blocks(R"({"pattern": "flex", "gamma": 1.5})"),
                {"gamma is 1.5", "a number, [0, 1]"}},
        BadText{"blocks_window", with_blocks(R"({"pattern": "pooled", "window_tiles": 0})"),
                {"window_tiles is 0", "an integer, >= 1"}},
        BadText{"blocks_key", with_blocks(R"({"tau": 0.1})"), {"unknown key \"tau\""}},
        BadText{"blocks_array", with_blocks("[]"), {"blocks: is not a JSON object"}},
        BadText{"layer_blocks_scores",
                with_layer_select(R"({"layers": [3], "blocks": {"pattern": "scores"}})"),
                {"layer_select: blocks: pattern is scores"}},
        BadText{"empty", "", {"not valid JSON"}},
        BadText{"cut_off", std::string(kGood).substr(0, 200), {"not valid JSON"}},
        BadText{"binary", std::string("\0\xff{", 3), {"not valid JSON"}},
        BadText{"array", "[1, 2]", {"not a JSON object"}},
        BadText{"number", "7", {"not a JSON object"}},
        BadText{"deep", std::string(100000, '['), {"more than 64 levels deep"}},
        BadText{"deep_value", replaced("\"fp32\"", std::string(400000, '[') +
                                                       std::string(400000, ']')),
                {"more than 64 levels deep"}},
        BadText{"nested_value", replaced("\"fp32\"", "[[\"fp32\"]]"),
                {"arithmetic is [[\"fp32\"]]", "fp32, reference_rounding"}},
        BadText{"huge", std::string(2 << 20, ' '), {"2097152 bytes", "at most 1048576"}},
        BadText{"no_version", replaced("\"tokensieve_profile\": 1,", ""), {"is 0; allowed: 1"}},
        BadText{"version_2", replaced("\"tokensieve_profile\": 1", "\"tokensieve_profile\": 2"),
                {"tokensieve_profile is 2", "allowed: 1"}},
        BadText{"version_text", replaced(": 1,", ": \"x\","), {"tokensieve_profile is \"x\""}},
        BadText{"unknown_key", replaced("\"model\"", "\"modle\""), {"unknown key \"modle\""}},
        BadText{"unknown_select_key", replaced("\"sinks\"", "\"sink\""),
                {"select", "unknown key \"sink\""}},
        BadText{"no_fingerprint", replaced("\"fingerprint\"", "\"model\""), {"fingerprint"}},
        BadText{"fingerprint_text", R"({"tokensieve_profile": 1, "fingerprint": "x",
            "sparse_layers": [], "select": {}})", {"fingerprint", "not a JSON object"}},
        BadText{"select_array", R"({"tokensieve_profile": 1, "fingerprint": {},
            "sparse_layers": [], "select": []})", {"select", "not a JSON object"}},
        BadText{"missing_layers", R"({"tokensieve_profile": 1, "fingerprint": {}, "select": {}})",
                {"sparse_layers is missing"}},
        BadText{"layer_zero", replaced("[2, 3, 7]", "[0, 3]"), {"holds 0", "never sparse"}},
        BadText{"layer_high", replaced("[2, 3, 7]", "[3, 8]"), {"holds 8", "num_layers - 1"}},
        BadText{"layer_text", replaced("[2, 3, 7]", "[\"2\"]"), {"holds \"2\""}},
        BadText{"layer_float", replaced("[2, 3, 7]", "[2.5]"), {"holds 2.5"}},
        BadText{"layer_negative", replaced("[2, 3, 7]", "[-2]"), {"holds -2"}},
        BadText{"layers_unsorted", replaced("[2, 3, 7]", "[3, 2]"), {"must ascend"}},
        BadText{"layers_repeat", replaced("[2, 3, 7]", "[3, 3]"), {"must ascend"}},
        BadText{"layers_object", replaced("[2, 3, 7]", "{}"), {"sparse_layers is not an array"}},
        BadText{"budget", replaced("\"budget\": \"keep_ratio\"", "\"budget\": \"half\""),
                {"budget is \"half\"", "tau, keep_ratio, keep_count"}},
        BadText{"share", replaced("\"layer\"", "\"layers\""), {"share is", "head, kv, layer"}},
        BadText{"fill", replaced("\"local\"", "0"), {"fill is 0", "zero, local"}},
        BadText{"arithmetic", replaced("\"fp32\"", "\"fp64\""), {"fp64", "reference_rounding"}},
        BadText{"ratio_text", replaced("0.3", "\"0.3\""),
                {"keep_ratio is \"0.3\"", "a number, (0, 1]"}},
        BadText{"ratio_large", replaced("0.3", "1.3"), {"keep_ratio is 1.3", "(0, 1]"}},
        BadText{"ratio_infinite", replaced("0.3", "1e999"), {"some/file.json"}},
        BadText{"pool_even", replaced("\"pool_width\": 5", "\"pool_width\": 4"),
                {"pool_width is 4", "odd"}},
        BadText{"pool_float", replaced("\"pool_width\": 5", "\"pool_width\": 5.5"),
                {"pool_width is 5.5", "an integer"}},
        BadText{"window_zero", replaced("\"obs_window\": 64", "\"obs_window\": 0"),
                {"obs_window is 0"}},
        BadText{"window_huge",
                replaced("\"obs_window\": 64", "\"obs_window\": 9999999999999999999"),
                {"obs_window is", "an integer"}},
        BadText{"local_window", replaced("256", "100"), {"local_window is 100", "64"}},
        BadText{"call_policy", replaced("\"sinks\": 8", "\"queries\": \"all\""),
                {"select", "unknown key \"queries\""}},
        BadText{"count_huge", replaced("\"min_keep\": 500", "\"min_keep\": 2147483649"),
                {"min_keep is 2147483649", "at most 2^31"}},
        BadText{"min_keep_negative", replaced("500", "-500"), {"min_keep is -500"}},
        BadText{"min_tokens_text", replaced("2000", "null"), {"min_tokens is null"}},
        BadText{"model_number", replaced("\"Test-1B\"", "3"), {"model is 3", "a string"}},
        BadText{"drift_text", replaced("[0.5, 0.1,", "[\"a\", 0.1,"), {"drift holds \"a\""}},
        BadText{"drift_negative", replaced("[0.5,", "[-0.5,"), {"drift holds -0.5", ">= 0"}},
        BadText{"drift_object", replaced("[0.5, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05]", "{}"),
                {"drift is not an array"}},
        BadText{"apart_object", replaced("\"drift\": [", "\"layer_select\": {}, \"drift\": ["),
                {"layer_select is not an array"}},
        BadText{"products_word", replaced("\"drift\"", "\"products\": \"fp16\", \"drift\""),
                {"products is \"fp16\"; allowed: auto, exact, split, bf16"}},
        BadText{"apart_number", with_layer_select("3"), {"layer_select", "not a JSON object"}},
        BadText{"apart_no_layers", with_layer_select(R"({"select": {}})"), {"layers is missing"}},
        BadText{"apart_no_select", with_layer_select(R"({"layers": [2]})"), {"select is missing"}},
        BadText{"apart_nowhere", with_layer_select(R"({"layers": [], "select": {}})"),
                {"layers names no layer"}},
        BadText{"apart_layer_zero", with_layer_select(R"({"layers": [0], "select": {}})"),
                {"layers holds 0", "never sparse"}},
        BadText{"apart_layer_high", with_layer_select(R"({"layers": [8], "select": {}})"),
                {"layers holds 8"}},
        BadText{"apart_twice", with_layer_select(R"({"layers": [2, 3], "select": {}},
                                                     {"layers": [3], "select": {}})"),
                {"names 3 a second time"}},
        BadText{"apart_unknown_key", with_layer_select(R"({"layers": [2], "select": {}, "x": 1})"),
                {"unknown key \"x\""}},
        BadText{"apart_select_key",
                with_layer_select(R"({"layers": [2], "select": {"keep": 0.1}})"),
                {"layer_select: select", "unknown key \"keep\""}},
        BadText{"apart_select_value",
                with_layer_select(R"({"layers": [2], "select": {"keep_ratio": 0}})"),
                {"layer_select: select", "keep_ratio is 0"}},
        BadText{"heads_negative", replaced("\"num_q_heads\": 4", "\"num_q_heads\": -4"),
                {"fingerprint", "num_q_heads is -4"}}),
    [](const auto& info) { return info.param.name; });

TEST(LoadProfile, NamesAMissingFile) {
  expect_error(load_profile("/no/such/profile.json").status(), StatusCode::kNotFound,
               {"/no/such/profile.json"});
}

TEST(LoadProfile, RefusesAFolder) {
  const Result<Profile> profile = load_profile("/");
  ASSERT_FALSE(profile.ok());
  EXPECT_NE(std::string(profile.status().message()).find("/"), std::string::npos);
}

TEST(LoadProfile, ReadsAFile) {
  const std::string path = testing::TempDir() + "/tokensieve_profile_test.json";
  std::ofstream(path) << kGood;
  const Result<Profile> profile = load_profile(path);
  std::remove(path.c_str());
  ASSERT_TRUE(profile.ok()) << profile.status().message();
  EXPECT_EQ(profile->model, "Test-1B");
}

TEST(Fingerprint, NamesEachDifference) {
  const Profile p = good();
  EXPECT_TRUE(check_fingerprint(p, p.fingerprint).ok());
  ModelFingerprint other = p.fingerprint;
  other.architecture = "gemma3";
  other.num_layers = 26;
  other.head_dim = 256;
  expect_error(check_fingerprint(p, other), StatusCode::kInvalidArgument,
               {"Test-1B", "architecture gemma3 (profile: llama)", "num_layers 26 (profile: 8)",
                "head_dim 256 (profile: 64)", "tokensieve profile"});
}

TEST(Fingerprint, UnknownFieldsMatchAnything) {
  Profile p = good();
  p.fingerprint = {};
  EXPECT_TRUE(check_fingerprint(p, good().fingerprint).ok());
}

}  // namespace
}  // namespace tokensieve
