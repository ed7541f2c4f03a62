// `tokensieve exec`: runs any llama.cpp program with the plug-in loaded.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "common/chunks.h"
#include "tokensieve/backend.h"

namespace tokensieve::cli {

struct ExecOptions {
  std::vector<std::string> command;  // PROGRAM ARGS
  std::string mode;                  // empty: the plug-in's default
  std::string profile;               // a file or a shipped name
  Products products = Products::kAuto;
  int32_t ubatch = kChunkUbatch;
  bool stats = false;
};

void add_exec_options(CLI::App& command, ExecOptions& options);
// Returns only when the program cannot be started.
int run_exec(const ExecOptions& options);

}  // namespace tokensieve::cli
