// FLASH_ATTN_EXT on the plug-in's backend against the op's meaning in double and against ggml's
// own CPU backend, through the public ggml API only.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "op_graph.h"
#include "tokensieve/tokensieve.h"
#include "tokensieve/tokensieve_products_c.h"
#include "tokensieve_ggml.h"

namespace tokensieve::ggml {
namespace {

constexpr float kHidden = -INFINITY;

// Rows are the newest of `past + queries` tokens.
auto causal(int64_t past) {
  return [past](int64_t, int64_t i, int64_t j) { return j <= past + i ? 0.0f : kHidden; };
}

class Plugin : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ggml_backend_load_all_from_path(TOKENSIEVE_LLAMA_BIN);
    reg_ = ggml_backend_load(TOKENSIEVE_PLUGIN_FILE);
  }

  void SetUp() override {
    ASSERT_NE(reg_, nullptr) << "cannot load " << TOKENSIEVE_PLUGIN_FILE;
    ASSERT_EQ(ggml_backend_reg_dev_count(reg_), 1u);
    device_ = ggml_backend_reg_dev_get(reg_, 0);
    backend_.reset(ggml_backend_dev_init(device_, nullptr));
    ASSERT_NE(backend_, nullptr);
    cpu_.reset(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    ASSERT_NE(cpu_, nullptr);
    set_threads(2);
    configure(TOKENSIEVE_GGML_DENSE);
  }

  template <typename F>
  static F function(const char* name) {
    void* address = ggml_backend_reg_get_proc_address(reg_, name);
    EXPECT_NE(address, nullptr) << name;
    return reinterpret_cast<F>(address);
  }

  void set_threads(int n) {
    function<ggml_backend_set_n_threads_t>("ggml_backend_set_n_threads")(backend_.get(), n);
  }

  static std::string configure(int mode, const char* profile = nullptr) {
    return configure(tokensieve_ggml_config{.struct_size = sizeof(tokensieve_ggml_config),
                                            .mode = mode,
                                            .profile_json = profile});
  }

  static std::string configure(const tokensieve_ggml_config& config) {
    char error[400] = "";
    const int rc = function<tokensieve_ggml_configure_fn>("tokensieve_ggml_configure")(
        &config, error, sizeof(error));
    EXPECT_EQ(rc == 0, error[0] == '\0') << error;
    return error;
  }

  static std::vector<tokensieve_ggml_layer_stats> stats() {
    const auto get = function<tokensieve_ggml_stats_fn>("tokensieve_ggml_stats");
    std::vector<tokensieve_ggml_layer_stats> layers(get(nullptr, 0));
    if (layers.empty()) return layers;
    layers[0].struct_size = sizeof(layers[0]);
    get(layers.data(), static_cast<int32_t>(layers.size()));
    return layers;
  }

  static void reset_stats() {
    function<tokensieve_ggml_reset_stats_fn>("tokensieve_ggml_reset_stats")();
  }

  bool claims(const OpCase& c) { return ggml_backend_dev_supports_op(device_, OpGraph(c).op()); }

  static ggml_backend_reg_t reg_;
  ggml_backend_dev_t device_ = nullptr;
  ggml_backend_ptr backend_;
  ggml_backend_ptr cpu_;
};

ggml_backend_reg_t Plugin::reg_ = nullptr;

double worst_error(const std::vector<float>& got, const std::vector<double>& want) {
  double worst = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    worst = std::max(worst, std::abs(got[i] - want[i]));
  }
  return worst;
}

std::vector<OpCase> dense_cases() {
  std::vector<OpCase> cases;
  const auto add = [&](OpCase c) { cases.push_back(std::move(c)); };
  add({.name = "whole_prompt", .mask = causal(0)});
  add({.name = "chunk", .queries = 257, .cells = 768, .mask = causal(490)});
  add({.name = "no_padding", .queries = 320, .cells = 320, .mask = causal(0)});
  add({.name = "mha_d128", .head_dim = 128, .q_heads = 2, .kv_heads = 2, .mask = causal(100)});
  add({.name = "mqa_d256", .head_dim = 256, .q_heads = 3, .kv_heads = 1, .mask = causal(0)});
  add({.name = "d16", .head_dim = 16, .mask = causal(0)});
  add({.name = "d80", .head_dim = 80, .mask = causal(5)});
  add({.name = "d192", .head_dim = 192, .q_heads = 2, .kv_heads = 1, .mask = causal(5)});
  add({.name = "group9", .q_heads = 9, .kv_heads = 3, .mask = causal(0)});
  add({.name = "bf16",
       .type_k = GGML_TYPE_BF16,
       .type_v = GGML_TYPE_BF16,
       .mask = causal(33)});
  add({.name = "f32", .type_k = GGML_TYPE_F32, .type_v = GGML_TYPE_F32, .mask = causal(33)});
  add({.name = "q8_0", .type_k = GGML_TYPE_Q8_0, .type_v = GGML_TYPE_Q8_0, .mask = causal(33)});
  add({.name = "q8_0_biased",
       .type_k = GGML_TYPE_Q8_0,
       .type_v = GGML_TYPE_Q8_0,
       .mask = [](int64_t, int64_t, int64_t j) { return j % 3 == 1 ? 0.0f : kHidden; }});
  add({.name = "q4_0_k_f16_v", .type_k = GGML_TYPE_Q4_0, .mask = causal(33)});
  add({.name = "f16_k_f32_v", .type_v = GGML_TYPE_F32, .mask = causal(33)});
  add({.name = "softcap", .softcap = 5.0f, .mask = causal(20), .scale = 0.3f});
  add({.name = "sinks", .sinks = true, .mask = causal(20)});
  add({.name = "softcap_sinks_biased",
       .softcap = 8.0f,
       .sinks = true,
       .mask = [](int64_t, int64_t, int64_t j) { return j < 400 ? 0.0f : kHidden; }});
  add({.name = "streams", .streams = 3, .mask = [](int64_t s, int64_t i, int64_t j) {
         return j <= i + 50 * s ? 0.0f : kHidden;
       }});
  add({.name = "alibi",
       .q_heads = 6,
       .max_bias = 8.0f,
       .mask = [](int64_t, int64_t i, int64_t j) {
         return j <= i + 30 ? -static_cast<float>(i + 30 - j) : kHidden;
       }});
  add({.name = "values",
       .mask = [](int64_t, int64_t i, int64_t j) {
         return j <= i ? -0.25f * static_cast<float>((i * 7 + j * 3) % 11) : kHidden;
       }});
  add({.name = "no_mask", .queries = 300, .cells = 310});
  add({.name = "non_causal",
       .mask = [](int64_t, int64_t, int64_t j) { return j < 301 ? 0.0f : kHidden; }});
  add({.name = "sliding_window", .queries = 500, .mask = [](int64_t, int64_t i, int64_t j) {
         return j <= i && j > i - 100 ? 0.0f : kHidden;
       }});
  add({.name = "two_sequences",
       .queries = 400,
       .mask = [](int64_t, int64_t i, int64_t j) {
         return j <= i && (i < 150) == (j < 150) ? 0.0f : kHidden;
       }});
  add({.name = "interleaved_sequences",
       .mask = [](int64_t, int64_t i, int64_t j) {
         return j <= i && i % 2 == j % 2 ? 0.0f : kHidden;
       }});
  add({.name = "holes", .cells = 1024, .mask = [](int64_t, int64_t i, int64_t j) {
         return j % 3 == 2 && 1022 - j <= 3 * i ? 0.0f : kHidden;  // cells in descending order
       }});
  add({.name = "fully_masked_rows",
       .mask = [](int64_t, int64_t i, int64_t j) {
         return i % 5 != 0 && j <= i ? 0.0f : kHidden;
       }});
  add({.name = "nothing_visible", .mask = [](int64_t, int64_t, int64_t) { return kHidden; }});
  add({.name = "nothing_visible_sinks",
       .sinks = true,
       .mask = [](int64_t, int64_t, int64_t) { return kHidden; }});
  add({.name = "fewer_cells_than_rows", .mask = [](int64_t, int64_t i, int64_t j) {
         return j % 50 == 3 && (i + j) % 2 == 0 ? 0.0f : kHidden;
       }});
  return cases;
}

TEST_F(Plugin, DenseMeansWhatGgmlMeans) {
  for (const OpCase& c : dense_cases()) {
    SCOPED_TRACE(c.name);
    OpGraph graph(c);
    ASSERT_TRUE(ggml_backend_dev_supports_op(device_, graph.op()));
    const std::vector<double> expected = graph.expected();

    ASSERT_EQ(graph.compute(cpu_.get()), GGML_STATUS_SUCCESS);
    const double ggml_error = worst_error(graph.result(), expected);
    // ggml rounds Q, P or V to the type of K: the bound only shows that both mean the same.
    const bool quantised = ggml_is_quantized(c.type_k);
    EXPECT_LT(ggml_error, quantised ? 5e-2 : 2e-2);

    graph.poison_hidden_cells();
    ASSERT_EQ(graph.compute(backend_.get()), GGML_STATUS_SUCCESS);
    const double error = worst_error(graph.result(), expected);
    EXPECT_LT(error, 2e-5);
    std::printf("%-24s worst error %.1e, ggml's own %.1e\n", c.name.c_str(), error, ggml_error);
  }
}

TEST_F(Plugin, ResultDoesNotDependOnThreads) {
  OpGraph graph({.name = "chunk", .queries = 400, .cells = 1024, .mask = causal(600)});
  set_threads(1);
  ASSERT_EQ(graph.compute(backend_.get()), GGML_STATUS_SUCCESS);
  const std::vector<float> one = graph.result();
  set_threads(3);
  ASSERT_EQ(graph.compute(backend_.get()), GGML_STATUS_SUCCESS);
  EXPECT_EQ(std::memcmp(one.data(), graph.result().data(), one.size() * sizeof(float)), 0);
}

TEST_F(Plugin, RefusesWhatItMustNotTake) {
  EXPECT_TRUE(claims({.queries = 257, .mask = causal(0)}));
  EXPECT_FALSE(claims({.queries = 256, .mask = causal(0)})) << "llama's flash attention probe";
  EXPECT_FALSE(claims({.queries = 1, .mask = causal(100)})) << "decode";
  EXPECT_FALSE(claims({.head_dim = 40, .mask = causal(0)}));
  EXPECT_FALSE(claims({.head_dim = 512, .mask = causal(0)}));
  EXPECT_FALSE(claims({.queries = 600, .cells = 512, .mask = causal(0)})) << "cross attention";
  configure(TOKENSIEVE_GGML_OFF);
  EXPECT_FALSE(claims({.mask = causal(0)}));
  configure(TOKENSIEVE_GGML_DENSE);
  EXPECT_TRUE(claims({.mask = causal(0)}));
}

TEST_F(Plugin, RefusesOtherOpsAndOtherWidthsOfV) {
  ggml_context_ptr context(ggml_init({1 << 20, nullptr, true}));
  ggml_context* ctx = context.get();
  ggml_tensor* a = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 512, 512);
  EXPECT_FALSE(ggml_backend_dev_supports_op(device_, ggml_mul_mat(ctx, a, a)));
  EXPECT_FALSE(ggml_backend_dev_supports_op(device_, ggml_soft_max(ctx, a)));
  ggml_tensor* q = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, 192, 300, 4);
  ggml_tensor* k = ggml_new_tensor_3d(ctx, GGML_TYPE_F16, 192, 512, 4);
  ggml_tensor* v = ggml_new_tensor_3d(ctx, GGML_TYPE_F16, 128, 512, 4);
  EXPECT_FALSE(ggml_backend_dev_supports_op(
      device_, ggml_flash_attn_ext(ctx, q, k, v, nullptr, 0.1f, 0.0f, 0.0f)));
}

TEST_F(Plugin, LooksLikeAnAccelerator) {
  EXPECT_STREQ(ggml_backend_reg_name(reg_), "TokenSieve");
  EXPECT_EQ(ggml_backend_dev_type(device_), GGML_BACKEND_DEVICE_TYPE_ACCEL);
  EXPECT_EQ(ggml_backend_dev_buffer_type(device_), ggml_backend_cpu_buffer_type());
  EXPECT_TRUE(ggml_backend_dev_supports_buft(device_, ggml_backend_cpu_buffer_type()));
  ggml_backend_dev_props props;
  ggml_backend_dev_get_props(device_, &props);
  EXPECT_EQ(props.memory_total, 0u);
  // Loading the same file again gives the same registry entry.
  EXPECT_EQ(ggml_backend_load(TOKENSIEVE_PLUGIN_FILE), reg_);
}

TEST_F(Plugin, AbortCallbackStopsANode) {
  OpGraph graph({.name = "abort", .mask = causal(0)});
  const auto set = function<ggml_backend_set_abort_callback_t>("ggml_backend_set_abort_callback");
  int calls = 0;  // one thread asks at a time, whichever works
  const auto inside_the_node = [](void* calls) { return ++*static_cast<int*>(calls) > 1; };
  set(backend_.get(), inside_the_node, &calls);
  EXPECT_EQ(graph.compute(backend_.get()), GGML_STATUS_ABORTED);
  EXPECT_EQ(calls, 2);
  set(backend_.get(), [](void*) { return true; }, nullptr);
  EXPECT_EQ(graph.compute(backend_.get()), GGML_STATUS_ABORTED);
  set(backend_.get(), nullptr, nullptr);
  EXPECT_EQ(graph.compute(backend_.get()), GGML_STATUS_SUCCESS);
}

TEST_F(Plugin, StatsCountNodesByLayer) {
  reset_stats();
  EXPECT_TRUE(stats().empty());
  OpGraph first({.mask = causal(0), .layer = 3});
  OpGraph second({.mask = causal(0), .layer = 21});
  ASSERT_EQ(first.compute(backend_.get()), GGML_STATUS_SUCCESS);
  ASSERT_EQ(second.compute(backend_.get()), GGML_STATUS_SUCCESS);
  ASSERT_EQ(second.compute(backend_.get()), GGML_STATUS_SUCCESS);
  const auto layers = stats();
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].layer, 3);
  EXPECT_EQ(layers[0].nodes, 1);
  EXPECT_EQ(layers[1].layer, 21);
  EXPECT_EQ(layers[1].nodes, 2);
  EXPECT_EQ(layers[1].sparse_nodes, 0);
  EXPECT_EQ(layers[1].keep_ratio, 1.0);
  EXPECT_GT(layers[1].attention_ms, 0.0);
  EXPECT_STREQ(layers[1].reason, "mode is dense");
}

TEST_F(Plugin, ConfigureSaysWhatIsWrong) {
  EXPECT_NE(configure(17).find("mode is 17"), std::string::npos);
  tokensieve_ggml_config products = {.struct_size = sizeof(products), .products = 9};
  EXPECT_NE(configure(products).find("products is 9; allowed: 0 to 3 (auto, exact, split, bf16)"),
            std::string::npos);
  EXPECT_NE(configure(TOKENSIEVE_GGML_SPARSE, "{").find("not valid JSON"), std::string::npos);
  EXPECT_NE(configure(TOKENSIEVE_GGML_SPARSE, "{}").find("tokensieve_profile"), std::string::npos);
  tokensieve_ggml_config config = {};
  char tiny[8];
  EXPECT_EQ(function<tokensieve_ggml_configure_fn>("tokensieve_ggml_configure")(&config, tiny,
                                                                              sizeof(tiny)),
            -1);
  EXPECT_EQ(tiny[sizeof(tiny) - 1], '\0');
}

// ---- sparse: the node against the oracle on the same tokens -------------------------------------

constexpr char kProfile[] = R"({
  "tokensieve_profile": 1, "model": "test",
  "fingerprint": {"num_layers": 30, "num_q_heads": 4, "num_kv_heads": 2, "head_dim": 64},
  "sparse_layers": [7], "min_tokens": 1024,
  "select": {"budget": "keep_ratio", "keep_ratio": 0.1, "obs_window": 32, "min_keep": 64,
             "share": "layer", "fill": "local", "local_window": 64, "sinks": 4}})";

// `past` tokens before the node's rows; token t lies in cell (t * 7) % cells: no order, with holes.
struct SparseCase {
  const char* name;
  int64_t queries, past, cells;
  ggml_type type = GGML_TYPE_F16;
};

std::vector<int32_t> cells_in_order(const SparseCase& c) {
  std::vector<int32_t> cells;
  for (int64_t t = 0; t < c.past + c.queries; ++t) {
    cells.push_back(static_cast<int32_t>(t * 7 % c.cells));
  }
  // Cells of the past have no order in a mask: the plug-in takes them by number.
  std::sort(cells.begin(), cells.begin() + (c.past > 0 ? c.past + 1 : 0));
  return cells;
}

OpGraph sparse_graph(const SparseCase& c, const std::vector<int32_t>& cells, int layer = 7) {
  std::vector<int64_t> token_of(c.cells, INT64_MAX);
  for (size_t t = 0; t < cells.size(); ++t) token_of[cells[t]] = static_cast<int64_t>(t);
  return OpGraph({.name = c.name,
                  .queries = c.queries,
                  .cells = c.cells,
                  .type_k = c.type,
                  .type_v = c.type,
                  .mask = [token_of, past = c.past](int64_t, int64_t i, int64_t j) {
                    return token_of[j] <= past + i ? 0.0f : kHidden;
                  },
                  .layer = layer});
}

std::vector<double> oracle(const OpGraph& graph, const SparseCase& c,
                           const std::vector<int32_t>& cells, RunReport* report = nullptr,
                           const std::string& profile = kProfile) {
  const Profile parsed = parse_profile(profile, "test").value();
  SelectConfig select = parsed.select;
  select.dense_policy = DensePolicy::kNever;
  const int64_t tokens = c.past + c.queries;
  const Plan plan = make_plan({.seqlen_q = c.queries,
                               .seqlen_kv = tokens,
                               .num_q_heads = 4,
                               .num_kv_heads = 2,
                               .head_dim = 64},
                              select, parsed.blocks, {.backend = Backend::kRef})
                        .value();
  EXPECT_EQ(plan.path, select.keep_ratio < 1 ? Path::kSparse : Path::kDense);
  const std::vector<float> q = graph.q(), k = graph.k_of(cells), v = graph.v_of(cells);
  std::vector<float> out(q.size());
  const Status status = run(plan,
                            {.q = bshd(q.data(), DType::kF32, 1, c.queries, 4, 64),
                             .k = bshd(k.data(), DType::kF32, 1, tokens, 2, 64),
                             .v = bshd(v.data(), DType::kF32, 1, tokens, 2, 64)},
                            {.out = bshd(out.data(), DType::kF32, 1, c.queries, 4, 64)}, {},
                            {.report = report});
  EXPECT_TRUE(status.ok()) << status.message();
  return {out.begin(), out.end()};
}

TEST_F(Plugin, SparseMeansWhatTheOracleMeans) {
  configure(TOKENSIEVE_GGML_SPARSE, kProfile);
  for (const SparseCase& c : {SparseCase{"whole", 2000, 0, 2304}, {"chunk", 700, 2500, 3328},
                              {"whole_q8_0", 2000, 0, 2304, GGML_TYPE_Q8_0}}) {
    SCOPED_TRACE(c.name);
    const std::vector<int32_t> cells = cells_in_order(c);
    OpGraph graph = sparse_graph(c, cells);
    graph.poison_hidden_cells();
    reset_stats();
    ASSERT_EQ(graph.compute(backend_.get()), GGML_STATUS_SUCCESS);
    const auto layers = stats();
    ASSERT_EQ(layers.size(), 1u);
    EXPECT_EQ(layers[0].sparse_nodes, 1) << layers[0].reason;
    EXPECT_LT(layers[0].keep_ratio, 0.5);
    RunReport report;
    const double error = worst_error(graph.result(), oracle(graph, c, cells, &report));
    EXPECT_LT(error, 2e-5);
    EXPECT_LT(layers[0].work, 0.7);
    EXPECT_NEAR(layers[0].work, report.work, 1e-6) << "counted, not estimated";
    std::printf("%-24s keep %.3f, worst error %.1e\n", c.name, layers[0].keep_ratio, error);
  }
}

// Block masks alone (nothing is dropped) and over selected tokens, in prompts and chunks.
TEST_F(Plugin, BlocksMeanWhatTheOracleMeans) {
  for (const double keep : {1.0, 0.5}) {
    std::string profile = kProfile;
    profile.replace(profile.find("0.1"), 3, std::to_string(keep));
    profile.replace(profile.find("\"select\""), 0,
                    R"("blocks": {"pattern": "antidiagonal", "threshold": 0.5}, )");
    configure(TOKENSIEVE_GGML_SPARSE, profile.c_str());
    for (const SparseCase& c : {SparseCase{"whole", 2000, 0, 2304}, {"chunk", 700, 2500, 3328}}) {
      SCOPED_TRACE(testing::Message() << c.name << ", keep " << keep);
      const std::vector<int32_t> cells = cells_in_order(c);
      OpGraph graph = sparse_graph(c, cells);
      graph.poison_hidden_cells();
      reset_stats();
      ASSERT_EQ(graph.compute(backend_.get()), GGML_STATUS_SUCCESS);
      const auto layers = stats();
      ASSERT_EQ(layers.size(), 1u);
      EXPECT_EQ(layers[0].sparse_nodes, keep < 1) << layers[0].reason;
      EXPECT_GT(layers[0].block_density, 0.1);
      EXPECT_LT(layers[0].block_density, 0.9);
      if (keep == 1) {
        EXPECT_NEAR(layers[0].work, layers[0].block_density, 1e-12);
      }
      EXPECT_LT(worst_error(graph.result(), oracle(graph, c, cells, nullptr, profile)), 2e-5);
    }
  }
}

// Products that were asked for are had, or the statistics say why not.
TEST_F(Plugin, ProductsAreTheConfigsOrElseTheProfiles) {
  std::string profile = kProfile;
  profile.insert(profile.find("\"min_tokens\""), "\"products\": \"split\", ");
  const auto ran = [&](const OpCase& c) {
    OpGraph graph(c);
    reset_stats();
    EXPECT_EQ(graph.compute(backend_.get()), GGML_STATUS_SUCCESS);
    return stats().at(0);
  };
  const OpCase f32 = {.type_k = GGML_TYPE_F32, .type_v = GGML_TYPE_F32, .mask = causal(0)};
  EXPECT_EQ(ran(f32).products, TOKENSIEVE_PRODUCTS_EXACT);
  EXPECT_STREQ(ran(f32).products_reason, "");
  // In mode dense the profile does not count.
  configure(TOKENSIEVE_GGML_DENSE, profile.c_str());
  EXPECT_STREQ(ran(f32).products_reason, "");
  configure(TOKENSIEVE_GGML_SPARSE, profile.c_str());
  EXPECT_EQ(ran(f32).products, TOKENSIEVE_PRODUCTS_EXACT);
  EXPECT_STREQ(ran(f32).products_reason,
               products_reason_text(ProductsReason::kF32Keys));
  // Another model's does not either.
  EXPECT_STREQ(ran({.q_heads = 8, .type_k = GGML_TYPE_F32, .type_v = GGML_TYPE_F32,
                    .mask = causal(0)}).products_reason, "");
  tokensieve_ggml_config config = {.struct_size = sizeof(config),
                                   .mode = TOKENSIEVE_GGML_SPARSE,
                                   .products = TOKENSIEVE_PRODUCTS_EXACT};
  configure(config);
  EXPECT_STREQ(ran(f32).products_reason, "");
  config.mode = TOKENSIEVE_GGML_DENSE;
  config.products = TOKENSIEVE_PRODUCTS_SPLIT;
  configure(config);
  EXPECT_STREQ(ran(f32).products_reason,
               products_reason_text(ProductsReason::kF32Keys));
  // On emulated tiles of an f16 cache they are had.
  setenv("TOKENSIEVE_ISA", "amx_emulated", 1);
  OpGraph graph({.mask = causal(0)});
  reset_stats();
  ASSERT_EQ(graph.compute(backend_.get()), GGML_STATUS_SUCCESS);
  unsetenv("TOKENSIEVE_ISA");
  EXPECT_EQ(stats().at(0).products, TOKENSIEVE_PRODUCTS_SPLIT);
  EXPECT_STREQ(stats().at(0).products_reason, "");
  EXPECT_LT(worst_error(graph.result(), graph.expected()), 1e-4);
  // Windows are a bias to the library.
  const OpCase window = {.mask = [](int64_t, int64_t i, int64_t j) {
    return j <= i && j > i - 100 ? 0.0f : kHidden;
  }};
  EXPECT_STREQ(ran(window).products_reason,
               products_reason_text(ProductsReason::kNotCausal));
}

TEST_F(Plugin, SparseOnlyWhereTheProfileSaysSo) {
  const SparseCase c{"whole", 2000, 0, 2304};
  const std::vector<int32_t> cells = cells_in_order(c);
  OpGraph other_layer = sparse_graph(c, cells, 8);
  reset_stats();
  configure(TOKENSIEVE_GGML_SPARSE, kProfile);
  ASSERT_EQ(other_layer.compute(backend_.get()), GGML_STATUS_SUCCESS);
  EXPECT_STREQ(stats()[0].reason, "layer not in the profile");
  EXPECT_LT(worst_error(other_layer.result(), other_layer.expected()), 2e-5);

}

// No ubatch is taken for a whole prompt unless the host says that it is one.
TEST_F(Plugin, ZeroFillIsDenseInAFirstChunk) {
  std::string profile = kProfile;
  profile.replace(profile.find("\"local\""), 7, "\"zero\"");
  const SparseCase c{"first chunk", 2000, 0, 2304};
  OpGraph graph = sparse_graph(c, cells_in_order(c));
  for (const int32_t whole : {0, 1}) {
    tokensieve_ggml_config config = {sizeof(config), TOKENSIEVE_GGML_SPARSE, profile.c_str(),
                                     nullptr, nullptr, 0, whole};
    const auto set = function<tokensieve_ggml_configure_fn>("tokensieve_ggml_configure");
    ASSERT_EQ(set(&config, nullptr, 0), 0);
    reset_stats();
    ASSERT_EQ(graph.compute(backend_.get()), GGML_STATUS_SUCCESS);
    EXPECT_EQ(stats()[0].sparse_nodes, whole);
    EXPECT_STREQ(stats()[0].reason, whole ? "" : "zero fill in a first chunk");
  }
}

// The first rows of a window and of a chunk look like a prompt of their own.
TEST_F(Plugin, WindowsAndChunksOfAttentionAreDenseInEveryMode) {
  const auto window = [](int64_t, int64_t i, int64_t j) {
    return j <= i && j > i - 1200 ? 0.0f : kHidden;
  };
  const auto chunks = [](int64_t, int64_t i, int64_t j) {
    return j <= i && j / 1100 == i / 1100 ? 0.0f : kHidden;
  };
  for (const OpCase& c : {OpCase{.name = "window", .queries = 1400, .cells = 1536, .mask = window},
                          OpCase{.name = "chunks", .queries = 1400, .cells = 1536,
                                 .mask = chunks}}) {
    OpGraph graph(c);
    for (const int mode : {TOKENSIEVE_GGML_SPARSE, TOKENSIEVE_GGML_WHOLE}) {  // an old name
      SCOPED_TRACE(c.name + " in mode " + std::to_string(mode));
      configure(mode, kProfile);
      reset_stats();
      ASSERT_EQ(graph.compute(backend_.get()), GGML_STATUS_SUCCESS);
      EXPECT_LT(worst_error(graph.result(), graph.expected()), 2e-5);
      EXPECT_EQ(stats()[0].sparse_nodes, 0);
      EXPECT_EQ(stats()[0].never_sparse_nodes, 1);
      EXPECT_EQ(stats()[0].work, 1.0);
      EXPECT_STREQ(stats()[0].reason, "mask is not plain causal");
    }
  }
}

// ---- the host's hook ----------------------------------------------------------------------------

// What one node chose, and what the host did about it.
struct Host {
  std::vector<tokensieve_ggml_selection> seen;
  std::vector<int32_t> kept;  // of the first set, before any change
  std::function<int(tokensieve_ggml_selection&)> change;

  static int select(tokensieve_ggml_selection* selection, void* user) {
    Host& host = *static_cast<Host*>(user);
    host.seen.push_back(*selection);
    host.kept.assign(selection->kept, selection->kept + selection->count);
    return host.change ? host.change(*selection) : 1;
  }
};

class HookTest : public Plugin {
 protected:
  void SetUp() override {
    Plugin::SetUp();
    if (HasFatalFailure()) return;
    graph_ = std::make_unique<OpGraph>(sparse_graph(case_, cells_in_order(case_)));
    configure(TOKENSIEVE_GGML_SPARSE, kProfile);
    expected_ = compute();
    configure_hook(&host_);
  }
  void TearDown() override { configure_hook(nullptr); }

  void configure_hook(Host* host) {
    tokensieve_ggml_config config = {sizeof(config), TOKENSIEVE_GGML_SPARSE, nullptr,
                                     host ? Host::select : nullptr, host, 0, 0};
    const auto set = function<tokensieve_ggml_configure_fn>("tokensieve_ggml_configure");
    EXPECT_EQ(set(&config, nullptr, 0), 0);
  }

  std::vector<float> compute() {
    reset_stats();
    EXPECT_EQ(graph_->compute(backend_.get()), GGML_STATUS_SUCCESS);
    return graph_->result();
  }

  const SparseCase case_{"hook", 2000, 0, 2304};
  std::unique_ptr<OpGraph> graph_;
  std::vector<float> expected_;  // without a hook
  Host host_;
};

TEST_F(HookTest, ReadingChangesNothing) {
  EXPECT_EQ(compute(), expected_);
  ASSERT_EQ(host_.seen.size(), 1u);
  const tokensieve_ggml_selection& s = host_.seen[0];
  EXPECT_EQ(s.layer, 7);
  EXPECT_EQ(s.tokens, 2000);
  EXPECT_EQ(s.queries, 2000);
  EXPECT_EQ(s.obs_window, 32);
  EXPECT_EQ(s.prefix, 2000 - 32);
  EXPECT_EQ(s.sets, 1);
  EXPECT_EQ(s.count, s.capacity);
  EXPECT_NEAR(stats()[0].keep_ratio, static_cast<double>(s.count) / 2000, 1e-9);
  EXPECT_TRUE(std::is_sorted(host_.kept.begin(), host_.kept.end()));
  EXPECT_EQ(host_.kept.back(), 1999);
}

TEST_F(HookTest, OtherSetsAreRun) {
  host_.change = [](tokensieve_ggml_selection& s) {
    s.count = s.tokens - s.prefix;  // only the observation window
    for (int64_t i = 0; i < s.count; ++i) s.kept[i] = static_cast<int32_t>(s.prefix + i);
    return 1;
  };
  const std::vector<float> fewer = compute();
  EXPECT_NE(fewer, expected_);
  EXPECT_EQ(stats()[0].sparse_nodes, 1);
  EXPECT_NEAR(stats()[0].keep_ratio, 32.0 / 2000, 1e-9);
}

TEST_F(HookTest, ZeroRunsDense) {
  host_.change = [](tokensieve_ggml_selection&) { return 0; };
  EXPECT_LT(worst_error(compute(), graph_->expected()), 2e-5);
  EXPECT_EQ(stats()[0].sparse_nodes, 0);
}

TEST_F(HookTest, SetsThatAreNotValidRunDense) {
  host_.change = [](tokensieve_ggml_selection& s) {
    std::swap(s.kept[0], s.kept[1]);
    return 1;
  };
  EXPECT_LT(worst_error(compute(), graph_->expected()), 2e-5);
  EXPECT_STREQ(stats()[0].reason, "sparse run failed");
}

TEST_F(HookTest, OlderHostsKeepTheHook) {
  configure(TOKENSIEVE_GGML_SPARSE);  // a full config without hook: nobody is asked any more
  compute();
  EXPECT_TRUE(host_.seen.empty());
  configure_hook(&host_);
  tokensieve_ggml_config old = {};
  old.struct_size = offsetof(tokensieve_ggml_config, select);
  old.mode = TOKENSIEVE_GGML_SPARSE;
  const auto set = function<tokensieve_ggml_configure_fn>("tokensieve_ggml_configure");
  EXPECT_EQ(set(&old, nullptr, 0), 0);
  compute();
  EXPECT_EQ(host_.seen.size(), 1u);
}

}  // namespace
}  // namespace tokensieve::ggml
