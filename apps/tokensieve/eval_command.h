// `tokensieve eval`: measures on real prompts what selection does to answers and to speed.
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

struct EvalOptions {
  ModelOptions model;
  std::vector<std::string> tasks;  // empty: the default ones
  std::vector<int32_t> lengths = {1024, 2048, 4096};
  int32_t cases = 8;
  uint64_t seed = 1;
  std::vector<std::string> configs;  // empty: the default ones
  std::string profile;               // empty: the model's
  int32_t ubatch = kChunkUbatch;     // of configurations that name no chunk
  Products products = Products::kAuto;  // of those that select and name none; auto: the profile's
  std::string output;                // empty: a name made from what is run
  std::string write_cases;           // write the prompts there and run nothing
  std::optional<std::string> system;
  int32_t inspect = 0;
  bool json = false;
  bool verbose = false;
};

void add_eval_options(CLI::App& command, EvalOptions& options);
int run_eval(const EvalOptions& options);

}  // namespace tokensieve::cli
