// What `ask` measured, and how it is shown.
#pragma once

#include <string>
#include <vector>

#include "ask.h"
#include "common/plugin.h"

namespace tokensieve::cli {

struct AskRun {
  Attention attention = Attention::kStock;
  std::string mode;  // "stock", "dense", "whole", "chunk"
  int32_t ubatch = 0;
  double prefill_ms = 0;
  double attention_ms = 0;
  double keep_ratio = 1;     // mean over the layers that ran sparse; 1 when none did
  double work = 1;           // computed / causal (query, key) pairs, mean over layers
  double block_density = 1;  // mean over the layers whose block masks left tiles out
  std::string products;      // "split", "exact (why not split)"; empty for stock
  int64_t memory_bytes = 0;  // most anonymous memory above the level before the context
  std::string answer;
  std::vector<LayerStats> layers;  // empty for stock
};

struct AskReport {
  std::string model;
  std::string profile;  // of the sparse run; empty when there is none
  int32_t prompt_tokens = 0;
  int32_t threads = 0;
  std::vector<AskRun> runs;
};

std::string report_json(const AskReport& report);
// Side by side, then the kept share of every layer as a chart.
std::string report_table(const AskReport& report, bool color);
// One line for a single run.
std::string report_line(const AskReport& report, const AskRun& run);
// Why a sparse run had no sparse layer; empty when it had some.
std::string why_dense(const AskRun& run);

}  // namespace tokensieve::cli
