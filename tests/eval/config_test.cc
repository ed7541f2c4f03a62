// Configurations as the command line names them, and what equal work means.
#include "eval/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "eval/command_text.h"
#include "eval/equal_work.h"

namespace tokensieve::eval {
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
  EXPECT_EQ(configs[0].method, &dense_method());
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
    EXPECT_NE(describe_configs().find(name), std::string::npos);
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

TEST(EvalConfig, ProductsAreAKeyOfWhateverIsOurs) {
  const std::vector<Config> configs =
      parse({"sparse", "forced:products=split/bf16", "dense:products=bf16", "paper"});
  ASSERT_EQ(configs.size(), 6u);
  EXPECT_EQ(configs[0].name, "dense") << "what is compared with stays exact";
  EXPECT_EQ(configs[0].profile.products, Products::kAuto);
  EXPECT_EQ(configs[1].profile.products, Products::kAuto);
  EXPECT_EQ(configs[2].name, "forced:products=split");
  EXPECT_EQ(configs[2].profile.products, Products::kSplit);
  EXPECT_EQ(config_line(configs[2]).profile["products"], "split");
  EXPECT_EQ(configs[3].profile.products, Products::kBf16);
  EXPECT_EQ(configs[4].name, "dense:products=bf16");
  EXPECT_EQ(config_line(configs[4]).products, "bf16");
  EXPECT_EQ(config_line(configs[0]).products, "");
  EXPECT_EQ(parse({"dense:products=exact"}).size(), 1u);
  EXPECT_NE(error_of("sparse:products=fp16").find("products=fp16; allowed: auto, exact, split"),
            std::string::npos);
  EXPECT_NE(error_of("stock:products=split").find("stock has no key products"), std::string::npos);
  Profile profile = model_profile();
  profile.products = Products::kSplit;
  const std::vector<Config> all =
      parse_configs({"dense", "sparse", "paper", "none"}, profile).value();
  for (const Config& config : all) {
    EXPECT_EQ(config.profile.products,
              config.method->selects() ? Products::kSplit : Products::kAuto)
        << config.name;
  }
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
  EXPECT_EQ(config.chunk, cli::kChunkUbatch);
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

TEST(EvalConfig, ListsBecomeConfigurations) {
  const std::vector<Config> configs = parse({"forced:keep=.1/.2,layers=upper/all"});
  ASSERT_EQ(configs.size(), 5u);
  std::set<std::string> names;
  for (const Config& config : configs) names.insert(config.name);
  EXPECT_EQ(names.size(), 5u);
  EXPECT_TRUE(names.contains("forced:keep=.2,layers=all"));
}

TEST(EvalConfig, ChunksAreReadWhereTheMethodCan) {
  std::map<std::string, int32_t> chunks;
  for (const Config& c : parse({"stock", "dense", "forced", "none", "random", "paper", "recent",
                                "forced:fill=zero", "forced:mode=whole", "stock:chunk=4096",
                                "dense:chunk=1024", "forced:chunk=1024/8192"})) {
    chunks[c.name] = c.chunk;
  }
  const std::map<std::string, int32_t> expected = {
      {"stock", 512}, {"dense", 2048}, {"forced", 2048}, {"none", 2048}, {"random", 2048},
      {"paper", 0}, {"recent", 0}, {"forced:fill=zero", 0}, {"forced:mode=whole", 0},
      {"stock:chunk=4096", 4096}, {"dense:chunk=1024", 1024}, {"forced:chunk=1024", 1024},
      {"forced:chunk=8192", 8192}};
  EXPECT_EQ(chunks, expected);
  const auto longer = parse_configs({"forced", "stock"}, model_profile(), 4096);
  ASSERT_TRUE(longer.ok());
  EXPECT_EQ((*longer)[0].chunk, 4096) << "dense";
  EXPECT_EQ((*longer)[1].chunk, 4096);
  EXPECT_EQ((*longer)[2].chunk, 512) << "stock";
  EXPECT_NE(error_of("forced:chunk=0").find("chunk=0; allowed: an integer from 1"),
            std::string::npos);
  EXPECT_NE(error_of("evict:chunk=512").find("mode=whole"), std::string::npos);
  EXPECT_NE(error_of("dense:mode=whole").find("allowed: chunk, name"), std::string::npos);
}

TEST(EvalConfig, TheHeaderSaysWhichChunks) {
  const auto chunk_of = [](const char* spec) { return config_line(parse({spec}).back()).chunk; };
  EXPECT_EQ(chunk_of("stock"), std::nullopt) << "as in older files";
  EXPECT_EQ(chunk_of("stock:chunk=2048"), 2048);
  EXPECT_EQ(chunk_of("forced"), 2048);
  EXPECT_EQ(chunk_of("forced:mode=whole"), std::nullopt);
  EXPECT_EQ(config_line(parse({"forced:mode=whole"})[1]).mode, "whole");
}

TEST(EvalEqualWork, ChunksCountEachWithItsKeys) {
  const Config forced = parse({"forced"})[1];
  const ModelFingerprint& model = forced.profile.fingerprint;
  SelectConfig select = forced.profile.select;
  select.dense_policy = DensePolicy::kNever;
  const auto work = [&](int64_t chunk) { return layer_work(model, select, 32768, chunk); };
  EXPECT_EQ(work(0), work(32768));
  EXPECT_LT(work(0), work(8192));
  EXPECT_LT(work(8192), work(2048));
  EXPECT_LT(work(2048), 0.4);
  // Fewer rows than four observation windows choose nothing.
  EXPECT_EQ(work(4 * select.obs_window - 1), 1);
  // Baselines get what the selection gets in its chunks, also those that cannot read so.
  const auto recent = [](const char* spec) {
    return resolve(parse({spec})[1], 32768).profile.select.keep_count;
  };
  EXPECT_GT(recent("recent"), recent("recent:mode=whole"));
}

TEST(EvalConfig, LaterBudgetWins) {
  EXPECT_EQ(parse({"forced:tau=.01"})[1].profile.select.budget, BudgetPolicy::kTau);
  EXPECT_EQ(parse({"forced:count=300"})[1].profile.select.keep_count, 300);
}

TEST(EvalConfig, ErrorsNameTheValueAndWhatIsAllowed) {
  EXPECT_NE(error_of("fast").find("allowed: stock, dense"), std::string::npos);
  EXPECT_NE(error_of("forced:keep=2").find("keep=2; allowed: (0, 1]"), std::string::npos);
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

TEST(EvalConfig, TheHeaderSaysWhatRuns) {
  const ConfigLine line = config_line(parse({"evict:filter=9"})[1]);
  EXPECT_EQ(line.kind, "evict");
  EXPECT_EQ(line.filter_layer, 9);
  EXPECT_EQ(line.profile["select"]["share"], "layer");
  EXPECT_TRUE(parse_profile(line.profile.dump(), "test").ok());
  EXPECT_EQ(config_line(parse({"forced"})[1]).kind, "sparse");
}

TEST(EvalConfig, EveryFieldOfASelectionIsAKey) {
  SelectConfig select;
  for_each_field(select, [](const SelectField& about, auto&) {
    if (about.group == SelectField::Group::kCall) return;
    if (std::string_view(about.name) == "budget") return;  // naming its value means it
    EXPECT_NE(describe_configs().find(std::string("\n  ") + about.alias + " "), std::string::npos);
    for (const char* name : {about.name, about.alias}) {
      EXPECT_NE(error_of(std::string("forced:") + name + "=x").find("=x; allowed: "),
                std::string::npos);
    }
  });
}

TEST(EvalConfig, BlocksAreKeys) {
  const std::vector<Config> configs = parse({"forced:blocks=flex,gamma=.8/.95,dense_rows=128",
                                             "sparse:blocks=antidiagonal,stride=8"});
  ASSERT_EQ(configs.size(), 4u);
  for (int i = 1; i < 3; ++i) {
    EXPECT_EQ(configs[i].profile.blocks.pattern, BlockPattern::kFlex);
    EXPECT_EQ(configs[i].profile.blocks.gamma, i == 1 ? .8 : .95);
    EXPECT_EQ(configs[i].profile.blocks.dense_rows, 128);
    EXPECT_EQ(config_line(configs[i]).profile["blocks"]["pattern"], "flex");
  }
  EXPECT_EQ(configs[3].profile.blocks.stride, 8);
  Profile apart = model_profile();
  apart.layer_select = {{{20}, apart.select, apart.blocks}};
  const Config all = parse_configs({"forced:blocks=pooled"}, apart).value()[1];
  EXPECT_EQ(all.profile.blocks_of(20).pattern, BlockPattern::kPooled);
  // "share" is the selection's.
  EXPECT_EQ(parse({"forced:share=kv,blocks=pooled"})[1].profile.blocks.share, Share::kHead);

  BlockConfig blocks;
  for_each_field(blocks, [](const BlockField& about, auto&) {
    std::string name = about.name;
    if (name == "share") return;
    if (name == "pattern") name = "blocks";
    EXPECT_NE(describe_configs().find("\n  " + name + " "), std::string::npos) << name;
    EXPECT_NE(error_of("forced:" + name + "=x").find("=x; allowed: "), std::string::npos);
  });
  EXPECT_NE(error_of("forced:blocks=given").find("pattern is given"), std::string::npos);
  EXPECT_NE(error_of("forced:stride=9").find("stride=9; allowed: 8, 16 or 32"), std::string::npos);
  EXPECT_EQ(error_of("forced:gamma=.8"),
            "--config forced:gamma=.8: gamma=.8 is not read with blocks=none; allowed: with "
            "blocks=flex; name such a pattern, or leave it out");
  EXPECT_NE(error_of("forced:blocks=pooled,alpha=.2,slashes=9").find("slashes=9 is not read with "),
            std::string::npos);
  apart.layer_select[0].blocks.pattern = BlockPattern::kFlex;  // which layer 20 reads
  EXPECT_TRUE(parse_configs({"forced:gamma=.8"}, apart).ok());
}

TEST(EvalConfig, NamesHoldNoFolders) {
  const std::string path = std::string(TOKENSIEVE_SOURCE_DIR) + "/profiles/smollm2.json";
  EXPECT_EQ(parse({"forced:profile=" + path})[1].name, "forced:profile=smollm2.json");
}

// (query, key) pairs of a layer where `kept` tokens, evenly spread, are kept; counted one by one.
double counted_work(const SelectConfig& select, int64_t tokens, int64_t kept, int64_t dense_rows) {
  const int64_t prefix = tokens - dense_rows - select.obs_window;
  std::vector<int64_t> keys_before(static_cast<size_t>(tokens) + 1);  // kept ones
  const auto is_kept = [&](int64_t t) {
    return t >= prefix || (t + 1) * kept / prefix > t * kept / prefix;
  };
  for (int64_t t = 0; t < tokens; ++t) {
    keys_before[static_cast<size_t>(t) + 1] = keys_before[static_cast<size_t>(t)] + is_kept(t);
  }
  double pairs = 0;
  for (int64_t row = 0; row < tokens; ++row) {
    if (row >= tokens - dense_rows) {
      pairs += static_cast<double>(row + 1);
      continue;
    }
    const bool local = select.fill == Fill::kLocal;
    const int64_t begin =
        local ? std::max<int64_t>(0, row / kLocalBlock * kLocalBlock - select.local_window)
              : row + 1;
    const int64_t sinks = local ? std::min<int64_t>(select.sinks, begin) : 0;
    if (local) pairs += static_cast<double>(row + 1 - begin + sinks);
    if (!is_kept(row)) continue;
    pairs += static_cast<double>(keys_before[static_cast<size_t>(begin)] -
                                 keys_before[static_cast<size_t>(sinks)]);
  }
  return pairs / causal_pairs(static_cast<double>(tokens));
}

TEST(EvalEqualWork, BaselinesDoAsMuchAsTheSelection) {
  for (const int32_t tokens : {2048, 4096, 8192, 32768}) {
    const std::vector<Config> configs =
        parse({"forced:mode=whole", "none:mode=whole", "recent:mode=whole"});
    const SelectConfig& forced = configs[1].profile.select;
    const auto kept = static_cast<int64_t>(forced.keep_ratio * (tokens - forced.obs_window));
    const double wanted = counted_work(forced, tokens, kept, 0);

    const Resolved none = resolve(configs[2], tokens);
    EXPECT_EQ(none.profile.select.local_window % kLocalBlock, 0);
    EXPECT_EQ(none.profile.select.protect_first, 1) << "a sink is the one token that it keeps";
    EXPECT_EQ(none.dense_rows, 128);
    EXPECT_NEAR(*none.work, wanted, 64.0 / tokens + 0.002);
    EXPECT_NEAR(counted_work(none.profile.select, tokens, 1, none.dense_rows), *none.work, 0.004);

    const SelectConfig recent = resolve(configs[3], tokens).profile.select;
    EXPECT_EQ(recent.budget, BudgetPolicy::kKeepCount);
    EXPECT_GT(recent.keep_count, kept) << "it does not pay for local fill";
    EXPECT_NEAR(counted_work(recent, tokens, recent.keep_count, 0), wanted, 0.004);
  }
}

TEST(EvalEqualWork, LayersThatDifferCountWithTheirMean) {
  const auto configs = parse_configs({"none", "once"}, profile_with_layers_apart());
  ASSERT_TRUE(configs.ok()) << configs.status().message();
  const auto window = [&](std::vector<int32_t> layers) {
    Config some = (*configs)[1];
    some.profile.sparse_layers = std::move(layers);
    return resolve(some, 32768).profile.select.local_window;
  };
  EXPECT_GT(window({2}), window({2, 20}));
  EXPECT_GT(window({2, 20}), window({20}));
  EXPECT_TRUE((*configs)[2].equal_work) << "one set for all layers: of their mean size";
}

TEST(EvalEqualWork, AWindowThatTheUserNamesStays) {
  const Config config = parse({"none:window=256"})[1];
  EXPECT_FALSE(config.equal_work);
  const Resolved resolved = resolve(config, 4096);
  EXPECT_EQ(resolved.profile.select.local_window, 256);
  EXPECT_EQ(resolved.dense_rows, 128);
}

TEST(EvalCommand, KeepsNoFolders) {
  const std::vector<std::string> words = {"/usr/bin/tokensieve", "eval", "/models/a.gguf", "-o",
                                          "--config", "forced:profile=/home/me/p.json,keep=.1/.2",
                                          "--output=/tmp/run.jsonl", "runs/mine.jsonl", "it is"};
  EXPECT_EQ(command_text(words),
            "tokensieve eval a.gguf -o --config forced:profile=p.json,keep=.1/.2 "
            "--output=run.jsonl runs/mine.jsonl 'it is'");
}

}  // namespace
}  // namespace tokensieve::eval
