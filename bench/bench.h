// Benchmarks of every stage and of whole layers: `tokensieve bench`. Each checks its result before
// it is timed and reports a ratio against a yardstick measured in the same run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tokensieve/tokensieve.h"

namespace tokensieve::bench {

struct Settings {
  std::vector<int64_t> lengths = {2048, 8192};
  std::vector<int32_t> head_dims = {64, 128};
  std::vector<double> keep_ratios = {0.2, 0.5};
  std::vector<std::string> benches = {"attend", "compact", "select", "layer"};
  int32_t num_q_heads = 9;
  int32_t num_kv_heads = 3;
  int32_t local_window = 512;
  int64_t ubatch = 2048;  // queries of the chunk benches
  int num_threads = 0;    // 0: all
  int repeats = 3;
  Isa isa = Isa::kAuto;
  std::vector<Products> products;  // empty: those that this CPU has
  BlockConfig blocks;  // of bench blocks
  std::string llama_bin;  // folder of ggml's backends; empty: no ggml yardstick

  bool wants(const std::string& bench) const {
    return std::find(benches.begin(), benches.end(), bench) != benches.end();
  }
  // A sparse layer that keeps this ratio, also where dense would win.
  SelectConfig layer(Fill fill, Share share, double keep) const {
    SelectConfig config;
    config.budget = BudgetPolicy::kKeepRatio;
    config.keep_ratio = keep;
    config.min_keep = 64;
    config.fill = fill;
    config.share = share;
    config.local_window = local_window;
    config.dense_policy = DensePolicy::kNever;
    return config;
  }
};

// One line of results.
struct Row {
  std::string bench;
  int32_t head_dim = 0;
  int64_t rows = 0;  // tokens of the prompt (attend: rows that attend)
  double keep_ratio = 1.0;
  std::optional<double> block_density;  // of rows with block masks
  double ms = 0.0;      // median
  double spread = 0.0;  // (slowest - fastest) / median
  double gflops = 0.0;  // of the causal work really asked for; 0 where it means nothing
  std::string yardstick;
  double yardstick_ms = 0.0;
  double ratio = 0.0;   // yardstick_ms / ms: how many times faster; `share` rows: ms / yardstick_ms
  bool share = false;
  double error = 0.0;   // rel-L2 of the result that was checked
};

// Of exact, split and bf16, what the settings' instruction set has.
std::vector<Products> available_products(const Settings& settings);

// The error that run() would begin with, if the settings make no sense.
Status check_settings(const Settings& settings);

// Runs what the settings ask for, passing each row on as soon as it is measured. Errors: a result
// that is wrong, settings that no plan accepts.
Status run(const Settings& settings, const std::function<void(const Row&)>& emit);

// GFLOP/s that all threads together reach in fused multiply-adds from registers.
double fma_peak_gflops(int num_threads, Executor& executor);

}  // namespace tokensieve::bench
