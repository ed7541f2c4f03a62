// How much each layer changes its tokens (arXiv 2602.03216, section 3.3): the paper's measure for
// choosing sparse layers.
#pragma once

#include <string>
#include <vector>

#include "common/llama_session.h"

namespace tokensieve::cli {

// Per layer: mean over tokens of ||out - in|| / (||in|| + 1e-8), normalised to sum 1. Reads at
// most max_tokens of `text` with selection off.
Result<std::vector<double>> measure_drift(const LlamaModel& model, const std::string& text,
                                          int32_t max_tokens);

// Those of `candidates` with drift at most the delta-quantile of theirs and layer 0's.
std::vector<int32_t> low_drift_layers(const std::vector<double>& drift,
                                      const std::vector<int32_t>& candidates, double delta);

}  // namespace tokensieve::cli
