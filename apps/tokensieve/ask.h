// `tokensieve ask`: answers a question over long documents.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/models.h"
#include "tokensieve/backend.h"
#include "tokensieve/blocks.h"

namespace tokensieve::cli {

enum class Attention { kStock, kDense, kSparse };
const char* attention_name(Attention attention);

struct AskOptions {
  ModelOptions model;
  std::vector<std::string> files;
  std::string question;
  Attention attention = Attention::kSparse;
  bool compare = false;
  bool paper = false;
  bool whole = false;  // sparse prompts in one ubatch
  std::string profile;
  std::optional<BlockPattern> blocks;  // instead of the profile's
  Products products = Products::kAuto;  // likewise, if it is another
  std::optional<std::string> system;
  int32_t context = 0;  // 0: as long as the prompt and the answer need
  int32_t ubatch = 0;   // 0: by the attention
  int32_t max_tokens = 64;
  double temperature = 0;
  bool json = false;
  bool verbose = false;
};

void add_ask_options(CLI::App& command, AskOptions& options);
int run_ask(const AskOptions& options);

}  // namespace tokensieve::cli
