// `tokensieve info`: what this build and this machine have.
#pragma once

#include <CLI/CLI.hpp>

namespace tokensieve::cli {

struct InfoOptions {
  bool json = false;
};

void add_info_options(CLI::App& command, InfoOptions& options);
int run_info(const InfoOptions& options);

}  // namespace tokensieve::cli
