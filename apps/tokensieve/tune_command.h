// `tokensieve tune`: finds the layers and the selection that save the most attention within a
// budget of damage, and writes them as a layer profile.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/chunks.h"
#include "common/models.h"
#include "tokensieve/backend.h"

namespace tokensieve::cli {

struct TuneOptions {
  ModelOptions model;
  std::string budget = "0.5%";
  double max_kl = 0.06;
  std::vector<int32_t> lengths;  // empty: 4096, or what the model's context allows
  int32_t cases = 0;             // 0: by `quick`
  uint64_t seed = 1;
  std::string ladder = "keep=.1/.2/.3/.5";
  std::string output;   // profile; empty: standard output
  std::string results;  // measurements; empty: a name for this search
  std::optional<std::string> system;
  int32_t ubatch = kChunkUbatch;
  Products products = Products::kAuto;
  bool quick = false;
  bool verbose = false;
};

void add_tune_options(CLI::App& command, TuneOptions& options);
int run_tune(const TuneOptions& options);

}  // namespace tokensieve::cli
