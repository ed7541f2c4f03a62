// When the plug-in may run sparse, and how it reads layer numbers.
#include "policy.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace tokensieve::ggml {
namespace {

Settings sparse_settings(Fill fill = Fill::kLocal) {
  Settings settings{.mode = TOKENSIEVE_GGML_SPARSE};
  Profile profile;
  profile.fingerprint = {"llama", 30, 9, 3, 64};
  profile.sparse_layers = {2, 5};
  profile.min_tokens = 4096;
  profile.select.obs_window = 128;
  profile.select.fill = fill;
  settings.profile = profile;
  return settings;
}

Node node_of_layer(int32_t layer) {
  Node node;
  node.layer = layer;
  node.head_dim = 64;
  node.num_q_heads = 9;
  node.num_kv_heads = 3;
  return node;
}

MaskSegment causal(int64_t rows, int64_t cells) {
  return {.causal = true, .plain = true, .num_rows = rows, .num_cells = cells};
}

std::string reason(const Settings& s, const Node& n, const MaskSegment& m) {
  const Choice choice = choose(s, n, m);
  EXPECT_EQ(choice.sparse, choice.reason[0] == '\0');
  EXPECT_EQ(choice.sparse, choice.select.enabled);
  return choice.reason;
}

TEST(Policy, LocalFillKeepsRowsInEveryUbatch) {
  for (const MaskSegment& ubatch : {causal(8192, 8192), causal(2048, 8192)}) {
    const Choice choice = choose(sparse_settings(), node_of_layer(5), ubatch);
    ASSERT_TRUE(choice.sparse) << choice.reason;
    EXPECT_EQ(choice.select.queries, Queries::kKept);
  }
}

TEST(Policy, ZeroFillAnswersEveryQueryUnlessTheHostSaysThatPromptsAreWhole) {
  Settings settings = sparse_settings(Fill::kZero);
  EXPECT_EQ(reason(settings, node_of_layer(5), causal(8192, 8192)), "zero fill in a first chunk");
  const Choice chunk = choose(settings, node_of_layer(5), causal(2048, 8192));
  ASSERT_TRUE(chunk.sparse) << chunk.reason;
  EXPECT_EQ(chunk.select.queries, Queries::kAll);
  EXPECT_GE(chunk.select.protect_first, 4);
  settings.whole_prompts = true;
  const Choice whole = choose(settings, node_of_layer(5), causal(8192, 8192));
  ASSERT_TRUE(whole.sparse) << whole.reason;
  EXPECT_EQ(whole.select.queries, Queries::kKept);
  EXPECT_EQ(choose(settings, node_of_layer(5), causal(2048, 8192)).select.queries, Queries::kAll);
}

TEST(Policy, LayersThatTheProfileSetsApart) {
  Settings settings = sparse_settings();
  SelectConfig apart = settings.profile->select;
  apart.tau = 0.02;
  apart.obs_window = 512;
  settings.profile->layer_select = {{{5}, apart}};
  EXPECT_EQ(choose(settings, node_of_layer(2), causal(8192, 8192)).select.tau, 0.005);
  EXPECT_EQ(choose(settings, node_of_layer(5), causal(8192, 8192)).select.tau, 0.02);
  EXPECT_EQ(reason(settings, node_of_layer(2), causal(1024, 8192)), "");
  EXPECT_EQ(reason(settings, node_of_layer(5), causal(1024, 8192)), "few rows");
}

TEST(Policy, ProductsAreThoseOfTheSettingsOrElseOfTheProfile) {
  Settings settings = sparse_settings();
  const auto products = [&](int32_t layer) {
    return choose(settings, node_of_layer(layer), causal(8192, 8192)).products;
  };
  EXPECT_EQ(products(5), Products::kAuto);
  settings.profile->products = Products::kSplit;
  EXPECT_EQ(products(5), Products::kSplit);
  EXPECT_EQ(products(0), Products::kSplit) << "dense layers too";
  Node softcapped = node_of_layer(5);
  softcapped.softcap = 30.0f;
  EXPECT_EQ(choose(settings, softcapped, causal(8192, 8192)).products, Products::kSplit);
  Node other = node_of_layer(5);
  other.num_q_heads = 12;
  EXPECT_EQ(choose(settings, other, causal(8192, 8192)).products, Products::kAuto);
  settings.products = Products::kExact;
  EXPECT_EQ(products(5), Products::kExact);
  settings.products = Products::kAuto;
  settings.mode = TOKENSIEVE_GGML_DENSE;
  EXPECT_EQ(products(5), Products::kAuto);
}

TEST(Policy, ProductsOfTheEnvironment) {
  const auto read = [](const char* word, Settings& settings) {
    setenv("TOKENSIEVE_PRODUCTS", word, 1);
    const Status status = settings_from_environment(settings);
    unsetenv("TOKENSIEVE_PRODUCTS");
    return status;
  };
  Settings settings;
  EXPECT_TRUE(read("bf16", settings).ok());
  EXPECT_EQ(settings.products, Products::kBf16);
  EXPECT_TRUE(read("", settings).ok());
  EXPECT_EQ(settings.products, Products::kAuto);
  const Status wrong = read("fp16", settings);
  EXPECT_STREQ(wrong.message(),
               "TOKENSIEVE_PRODUCTS is \"fp16\"; allowed: auto, exact, split, bf16");
  EXPECT_EQ(settings.mode, TOKENSIEVE_GGML_DENSE) << "what is wrong runs dense";
  EXPECT_EQ(settings.products, Products::kAuto);
}

TEST(Policy, BlocksOfTheProfileGoToWholePromptsAndChunks) {
  Settings settings = sparse_settings();
  settings.profile->blocks.pattern = BlockPattern::kFlex;
  const Node node = node_of_layer(5);
  for (const MaskSegment& ubatch : {causal(8192, 8192), causal(2048, 8192)}) {
    EXPECT_EQ(choose(settings, node, ubatch).blocks.pattern, BlockPattern::kFlex);
  }
  MaskSegment masked = causal(2048, 8192);
  masked.plain = false;
  for (const MaskSegment& ubatch : {masked, causal(511, 8192), causal(4095, 4095)}) {
    EXPECT_EQ(choose(settings, node, ubatch).blocks.pattern, BlockPattern::kNone);
  }
  EXPECT_EQ(choose(settings, node_of_layer(3), causal(8192, 8192)).blocks.pattern,
            BlockPattern::kNone);
  settings.profile->select.fill = Fill::kZero;  // all queries of a chunk
  EXPECT_EQ(choose(settings, node, causal(2048, 8192)).blocks.pattern, BlockPattern::kNone);
}

TEST(Policy, EveryDoubtfulCaseIsDense) {
  const Settings settings = sparse_settings();
  Settings dense = settings;
  dense.mode = TOKENSIEVE_GGML_DENSE;
  const Node node = node_of_layer(5);
  const MaskSegment good = causal(2048, 8192);
  EXPECT_EQ(reason(settings, node, good), "");
  EXPECT_EQ(reason(dense, node, good), "mode is dense");
  EXPECT_EQ(reason(Settings{}, node, good), "no profile");
  EXPECT_EQ(reason(settings, node_of_layer(kUnknownLayer), good), "layer number not found");
  EXPECT_EQ(reason(settings, node_of_layer(0), good), "layer not in the profile");
  EXPECT_EQ(reason(settings, node_of_layer(3), good), "layer not in the profile");
  MaskSegment masked = good;
  masked.plain = false;
  for (const Settings& any : {settings, dense}) {
    EXPECT_EQ(reason(any, node, masked), "mask is not plain causal");
  }
  EXPECT_EQ(reason(settings, node, causal(4095, 4095)), "prompt shorter than min_tokens");
  EXPECT_EQ(reason(settings, node, causal(4096, 4096)), "");
  EXPECT_EQ(reason(settings, node, causal(511, 8192)), "few rows");  // 4 observation windows
  EXPECT_EQ(reason(settings, node, causal(512, 8192)), "");
}

TEST(Policy, NodesThatMayBeAProbeAreDense) {
  Settings settings = sparse_settings();
  settings.profile->select.obs_window = 16;
  settings.profile->min_tokens = 0;
  EXPECT_EQ(reason(settings, node_of_layer(5), causal(256, 8192)), "few rows");
  EXPECT_EQ(reason(settings, node_of_layer(5), causal(257, 8192)), "");
  EXPECT_EQ(reason(settings, node_of_layer(5), causal(256, 256)), "few rows");
  EXPECT_EQ(reason(settings, node_of_layer(5), causal(257, 257)), "");
}

TEST(Policy, ValuesInTheLogitsAreDense) {
  const Settings settings = sparse_settings();
  const float sink = 0.0f;
  Node softcap = node_of_layer(5), sinks = node_of_layer(5), alibi = node_of_layer(5);
  softcap.softcap = 30.0f;
  sinks.sinks = &sink;
  alibi.max_bias = 8.0f;
  for (const Node& node : {softcap, sinks, alibi}) {
    EXPECT_EQ(reason(settings, node, causal(8192, 8192)), "softcap, sinks or ALiBi");
  }
}

TEST(Policy, AProfileOfAnotherModelIsNotUsed) {
  const Settings settings = sparse_settings();
  Node heads = node_of_layer(5), kv = node_of_layer(5), dim = node_of_layer(5);
  heads.num_q_heads = 32;
  kv.num_kv_heads = 9;
  dim.head_dim = 128;
  for (const Node& node : {heads, kv, dim}) {
    EXPECT_EQ(reason(settings, node, causal(8192, 8192)), "profile is for another model");
  }
}

TEST(Settings, OldModesMeanSparse) {
  for (const char* name : {"chunk", "whole", "sparse"}) {
    ::setenv("TOKENSIEVE_MODE", name, 1);
    Settings settings;
    ASSERT_TRUE(settings_from_environment(settings).ok());
    EXPECT_STREQ(mode_name(settings.mode), "sparse");
    EXPECT_EQ(settings.old_mode, std::string(name) == "sparse" ? "" : name);
  }
  ::unsetenv("TOKENSIEVE_MODE");
}

TEST(Layer, IsReadFromTheCacheOrTheOutput) {
  EXPECT_EQ(layer_of_cache("cache_k_l0"), 0);
  EXPECT_EQ(layer_of_cache("cache_k_l29"), 29);
  EXPECT_EQ(layer_of_cache("cache_swa_k_l7"), 7);
  EXPECT_EQ(layer_of_cache("cache_k_l12 (view)"), 12);
  EXPECT_EQ(layer_of_output("kqv_out-14"), 14);
  for (const char* name : {"", "cache_k_l", "cache_k_l-1", "cache_k_l7x", "cache_v_l7", "Kcur-7",
                           "cache_k_l99999999999999999999"}) {
    EXPECT_EQ(layer_of_cache(name), kUnknownLayer) << name;
  }
  for (const char* name : {"", "kqv_out", "kqv_out-", "kqv_out-x", "node_21"}) {
    EXPECT_EQ(layer_of_output(name), kUnknownLayer) << name;
  }
}

}  // namespace
}  // namespace tokensieve::ggml
