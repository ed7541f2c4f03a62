// `tokensieve profile`: measures how much every layer changes its tokens on real text, chooses the
// sparse layers and writes the layer profile.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "common/models.h"
#include "common/profiles.h"
#include "tokensieve/select.h"

namespace tokensieve::cli {

struct ProfileOptions {
  ModelOptions model;
  std::string text;
  std::string output;  // empty: standard output
  int32_t max_tokens = 4096;
  double delta = 0.5;
  std::string layers;  // empty: by drift
  SelectConfig select = default_profile({}).select;
  int64_t min_tokens = 4096;
  bool verbose = false;
};

void add_profile_options(CLI::App& command, ProfileOptions& options);
int run_profile(const ProfileOptions& options);

}  // namespace tokensieve::cli
