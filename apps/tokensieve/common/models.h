// MODEL on the command line: a GGUF file or a short name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokensieve/status.h"

namespace tokensieve::cli {

enum class RopeScaling { kModel, kNone, kLinear, kYarn };

// Everything that decides which model runs; the options of llama.cpp with the same names.
struct ModelOptions {
  std::string model;
  std::string lora;
  RopeScaling rope_scaling = RopeScaling::kModel;
  double rope_scale = 0;      // 0: the model's
  int32_t yarn_orig_ctx = 0;  // 0: the model's
  int32_t threads = 0;        // 0: one per physical core
};

struct ResolvedModel {
  std::string name;  // the short name, or the file name without .gguf
  bool is_short_name = false;
  std::string gguf;
  ModelOptions options;
  std::string system_prompt;  // what the model was trained with; empty: none
};

// The short names, for help and errors.
std::vector<std::string_view> short_model_names();

// Errors: unknown name, missing file, not a GGUF file.
Result<ResolvedModel> resolve_model(const ModelOptions& options);

}  // namespace tokensieve::cli
