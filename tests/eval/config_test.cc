// Configurations as the command line names them, and what equal work means.
#include "eval/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

namespace tokensieve::cli::eval {
namespace {

Profile model_profile() {
  Profile profile;
  profile.model = "test";
  profile.fingerprint = {"llama", 30, 9, 3, 64};
  for (int32_t l = 2; l < 30; ++l) profile.sparse_layers.push_back(l);
  profile.select.budget = BudgetPolicy::kKeepRatio;
  profile.select.share = Share::kLayer;
  profile.select.fill = Fill::kLocal;
  return profile;
}

std::vector<Config> parse(const std::vector<std::string>& specs) {
  Result<std::vector<Config>> configs = parse_configs(specs, model_profile());
  EXPECT_TRUE(configs.ok()) << configs.status().message();
  return configs.ok() ? configs.value() : std::vector<Config>{};
}

std::string error_of(const std::string& spec) {
  const Result<std::vector<Config>> configs = parse_configs({spec}, model_profile());
  return configs.ok() ? "" : configs.status().message();
}

TEST(EvalConfig, DefaultsParseAndDenseComesFirst) {
  const std::vector<Config> configs = parse(default_configs());
  ASSERT_EQ(configs.size(), default_configs().size());
  EXPECT_EQ(configs[0].kind, Kind::kDense);
}

TEST(EvalConfig, DenseIsAddedWhenMissing) {
  const std::vector<Config> configs = parse({"stock"});
  ASSERT_EQ(configs.size(), 2u);
  EXPECT_EQ(configs[0].name, "dense");
}

TEST(EvalConfig, EveryPresetParses) {
  for (const char* name : {"stock", "dense", "sparse", "forced", "paper", "none", "random",
                           "recent", "evict", "once", "draft"}) {
    EXPECT_EQ(parse({name}).back().name, name);
    EXPECT_NE(describe_presets().find(name), std::string::npos);
  }
}

TEST(EvalConfig, SparseIsTheProfileAsItIsAndForcedHasNoGates) {
  const std::vector<Config> configs = parse({"sparse", "forced"});
  EXPECT_EQ(configs[1].profile.min_tokens, 4096);
  EXPECT_FALSE(configs[1].always_sparse);
  EXPECT_EQ(configs[2].profile.min_tokens, 0);
  EXPECT_EQ(configs[2].profile.select.min_keep, 0);
  EXPECT_TRUE(configs[2].always_sparse);
}

TEST(EvalConfig, PaperIsThePapers) {
  const Profile profile = parse({"paper"})[1].profile;
  EXPECT_EQ(profile.select.budget, BudgetPolicy::kTau);
  EXPECT_EQ(profile.select.tau, 0.005);
  EXPECT_EQ(profile.select.fill, Fill::kZero);
  EXPECT_EQ(profile.select.share, Share::kHead);
  EXPECT_EQ(profile.sparse_layers.front(), 15);
}

TEST(EvalConfig, KeysOverride) {
  const Config config =
      parse({"forced:keep=0.1,window=256,layers=2,5-7,sinks=8,fill=local,share=kv,mode=chunk,"
             "obs_window=64,pool_width=5,min_tokens=100,min_keep=32,gate=on,name=thin"})[1];
  EXPECT_EQ(config.name, "thin");
  EXPECT_EQ(config.profile.select.keep_ratio, 0.1);
  EXPECT_EQ(config.profile.select.local_window, 256);
  EXPECT_EQ(config.profile.sparse_layers, (std::vector<int32_t>{2, 5, 6, 7}));
  EXPECT_EQ(config.profile.select.sinks, 8);
  EXPECT_EQ(config.profile.select.share, Share::kKv);
  EXPECT_EQ(config.profile.min_tokens, 100);
  EXPECT_EQ(config.profile.select.min_keep, 32);
  EXPECT_TRUE(config.chunk);
  EXPECT_FALSE(config.always_sparse);
}

// Layers 20-29 keep less.
Profile profile_with_layers_apart() {
  Profile profile = model_profile();
  SelectConfig thin = profile.select;
  thin.keep_ratio = 0.1;
  thin.local_window = 256;
  profile.layer_select = {{{20, 21, 22, 23, 24, 25, 26, 27, 28, 29}, thin}};
  return profile;
}

TEST(EvalConfig, KeysHoldForLayersThatAreSetApart) {
  const auto configs = parse_configs({"forced", "forced:keep=0.4,sinks=8,share=kv", "paper"},
                                     profile_with_layers_apart());
  ASSERT_TRUE(configs.ok()) << configs.status().message();
  const Profile& forced = (*configs)[1].profile;
  EXPECT_EQ(forced.select_of(20).keep_ratio, 0.1);
  EXPECT_EQ(forced.select_of(20).min_keep, 0);
  const Profile& keys = (*configs)[2].profile;
  for (const int32_t layer : {2, 20}) {
    EXPECT_EQ(keys.select_of(layer).keep_ratio, 0.4);
    EXPECT_EQ(keys.select_of(layer).sinks, 8);
    EXPECT_EQ(keys.select_of(layer).share, Share::kKv);
  }
  EXPECT_EQ(keys.select_of(2).local_window, 512);
  EXPECT_EQ(keys.select_of(20).local_window, 256);
  EXPECT_TRUE((*configs)[3].profile.layer_select.empty());
}

TEST(EvalConfig, APresetIsMadeFromTheProfileThatItsKeyNames) {
  const std::vector<Config> configs = parse(
      {"once:profile=smollm2", "recent:profile=smollm2,min_keep=9", "sparse:profile=smollm2"});
  ASSERT_EQ(configs.size(), 4u);
  EXPECT_FALSE(configs[1].profile.layer_select.empty());
  EXPECT_TRUE(configs[1].equal_work) << "its layers differ";
  EXPECT_EQ(configs[2].profile.select.fill, Fill::kZero) << "the preset's own";
  EXPECT_EQ(configs[2].profile.select.min_keep, 9);
  EXPECT_EQ(configs[2].profile.min_tokens, 0);
  EXPECT_EQ(configs[3].profile.min_tokens, 4096);
  EXPECT_NE(error_of("paper:profile=smollm2").find("forced:profile="), std::string::npos);
  EXPECT_NE(error_of("dense:profile=smollm2").find("selects nothing"), std::string::npos);
  EXPECT_NE(error_of("forced:profile=llama-3.1-8b").find("layers"), std::string::npos);
}

TEST(EvalConfig, BaselinesGetTheMeanWorkOfLayersThatDiffer) {
  const auto configs = parse_configs({"none", "once"}, profile_with_layers_apart());
  ASSERT_TRUE(configs.ok()) << configs.status().message();
  const Config& none = (*configs)[1];
  const auto layer_work = [&](int32_t layer) {
    Config one = none;
    one.profile.sparse_layers = {layer};
    return beside_work(one, 32768);
  };
  EXPECT_GT(layer_work(2), 2 * layer_work(20));
  EXPECT_NEAR(beside_work(none, 32768), (18 * layer_work(2) + 10 * layer_work(20)) / 28, 1e-12);
  EXPECT_TRUE((*configs)[2].equal_work) << "one set for all layers: of their mean size";
}

TEST(EvalConfig, ListsBecomeConfigurations) {
  const std::vector<Config> configs = parse({"forced:keep=.1/.2,layers=upper/all"});
  ASSERT_EQ(configs.size(), 5u);
  std::set<std::string> names;
  for (const Config& config : configs) names.insert(config.name);
  EXPECT_EQ(names.size(), 5u);
  EXPECT_TRUE(names.contains("forced:keep=.2,layers=all"));
}

TEST(EvalConfig, LaterBudgetWins) {
  EXPECT_EQ(parse({"forced:tau=.01"})[1].profile.select.budget, BudgetPolicy::kTau);
  EXPECT_EQ(parse({"forced:count=300"})[1].profile.select.keep_count, 300);
}

TEST(EvalConfig, ErrorsNameTheValueAndWhatIsAllowed) {
  EXPECT_NE(error_of("fast").find("allowed: stock, dense"), std::string::npos);
  EXPECT_NE(error_of("forced:keep=2").find("keep=2; allowed: a number from"), std::string::npos);
  EXPECT_NE(error_of("forced:keep=nan").find("allowed"), std::string::npos);
  EXPECT_NE(error_of("forced:keep=").find("allowed"), std::string::npos);
  EXPECT_NE(error_of("forced:window=100").find("a multiple of 64"), std::string::npos);
  EXPECT_NE(error_of("forced:layers=0-3").find("numbers from 1 to 29"), std::string::npos);
  EXPECT_NE(error_of("forced:pool_width=4").find("odd"), std::string::npos);
  EXPECT_NE(error_of("forced:fill=mean").find("zero, local"), std::string::npos);
  EXPECT_NE(error_of("forced:depth=3").find("unknown key \"depth\""), std::string::npos);
  EXPECT_NE(error_of("forced:keep").find("not key=value"), std::string::npos);
  EXPECT_NE(error_of("stock:keep=.1").find("selects nothing"), std::string::npos);
  EXPECT_NE(error_of("none:tau=.01").find("fixed number"), std::string::npos);
  EXPECT_NE(error_of("recent:mode=chunk").find("mode=whole"), std::string::npos);
  EXPECT_NE(error_of("once:share=head").find("share=layer"), std::string::npos);
  EXPECT_NE(error_of("evict:filter=30").find("1 to 29"), std::string::npos);
  EXPECT_NE(error_of("forced:profile=nope").find("nope"), std::string::npos);
  const auto twice = parse_configs({"none", "none"}, model_profile());
  ASSERT_FALSE(twice.ok());
  EXPECT_NE(std::string(twice.status().message()).find("name="), std::string::npos);
}

TEST(EvalConfig, JsonSaysWhatRuns) {
  const nlohmann::ordered_json json = config_json(parse({"evict:filter=9"})[1]);
  EXPECT_EQ(json["kind"], "evict");
  EXPECT_EQ(json["filter_layer"], 9);
  EXPECT_EQ(json["profile"]["select"]["share"], "layer");
  EXPECT_TRUE(parse_profile(json["profile"].dump(), "test").ok());
}

TEST(EvalConfig, BaselinesDoEqualWork) {
  SelectConfig select = model_profile().select;
  select.min_keep = 0;
  for (const int64_t tokens : {2048, 4096, 8192, 32768}) {
    const auto n = static_cast<double>(tokens);
    const double kept = std::floor(0.2 * (n - 128)) + 128;
    const double work = selection_work(select, kept, n);
    SelectConfig zero = select;
    zero.fill = Fill::kZero;
    const auto more = static_cast<double>(equal_work_count(zero, work, tokens) + 128);
    EXPECT_GT(more, kept);
    EXPECT_NEAR(selection_work(zero, more, n), work, 0.002);

    SelectConfig window = select;
    window.local_window = equal_work_window(select, work, tokens);
    EXPECT_EQ(window.local_window % 64, 0);
    const double rows = n - 128;
    const double pairs = selection_work(window, 1, rows) * rows * (rows + 1) / 2 + 128 * (n - 64);
    EXPECT_NEAR(pairs / (n * (n + 1) / 2), work, 64 / n + 0.002);
  }
  EXPECT_NEAR(selection_work(select, 8192, 8192), 1.0, 1e-3);
}

}  // namespace
}  // namespace tokensieve::cli::eval
