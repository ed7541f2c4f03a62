// `tokensieve bench`: how fast the stages and whole layers are on this machine.
#pragma once

#include <CLI/CLI.hpp>

#include <optional>
#include <string>

#include "bench.h"

namespace tokensieve::cli {

struct BenchOptions {
  bench::Settings settings;
  std::string isa = "auto";
  std::string backend = "cpu";
  std::vector<std::string> products;  // empty: what this CPU has
  std::optional<BlockPattern> blocks;
  bool json = false;
  const CLI::App* command = nullptr;  // knows which options were given
};

void add_bench_options(CLI::App& command, BenchOptions& options);
int run_bench(const BenchOptions& options);

}  // namespace tokensieve::cli
