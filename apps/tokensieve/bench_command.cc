#include "bench_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "bench_cuda.h"
#include "common/command.h"
#include "common/options.h"
#include "common/paths.h"
#include "common/terminal.h"
#include "tokensieve/names.h"

namespace tokensieve::cli {
namespace {

using Json = nlohmann::ordered_json;

void print_json(const char* backend, const bench::Row& row) {
  Json line = {{"bench", row.bench}, {"backend", backend}};
  if (row.rows > 0) {
    line["head_dim"] = row.head_dim;
    line["rows"] = row.rows;
    line["keep_ratio"] = row.keep_ratio;
    if (row.block_density) line["block_density"] = *row.block_density;
    line["ms"] = row.ms;
    line["spread"] = row.spread;
  }
  if (row.gflops > 0) line["gflops"] = row.gflops;
  if (!row.yardstick.empty()) {
    line["yardstick"] = row.yardstick;
    line["yardstick_ms"] = row.yardstick_ms;
    line["ratio"] = row.ratio;
    line["rel_l2"] = row.error;
  }
  print_out("{}\n", line.dump());
  std::fflush(stdout);
}

void print_header() {
  print_out("{:<38}{:>5}{:>8}{:>7}{:>11}{:>9}  {}\n", "bench", "dim", "rows", "keep", "ms",
            "GFLOP/s", "against");
}

// One line a row, aligned: readable while the run goes on.
void print_text(const bench::Row& row) {
  if (row.rows == 0) {
    print_out("{} {:.0f} GFLOP/s (all threads)\n\n", row.bench, row.gflops);
    print_header();
    return;
  }
  const std::string speed = row.gflops > 0 ? fmt::format("{:.0f}", row.gflops) : "";
  std::string against;
  if (row.block_density) against = fmt::format("density {:.2f}, ", *row.block_density);
  if (row.share) {
    against += fmt::format("{:.2f} % of {}", 100 * row.ratio, row.yardstick);
  } else if (!row.yardstick.empty()) {
    against += fmt::format("x{:.2f} over {} ({:.2f} ms), rel-L2 {:.0e}", row.ratio, row.yardstick,
                           row.yardstick_ms, row.error);
  }
  print_out("{:<38}{:>5}{:>8}{:>7.2f}{:>11.{}f}{:>9}  {}\n", row.bench, row.head_dim, row.rows,
            row.keep_ratio, row.ms, row.ms < 1 ? 4 : 2, speed, against);
  std::fflush(stdout);
}

// A GPU's own sizes where the caller names none.
void use_cuda_defaults(const CLI::App& command, bench::Settings& settings) {
  const auto unset = [&](const char* option) { return command.count(option) == 0; };
  if (unset("--lengths")) settings.lengths = {2048, 8192, 32768, 131072, 262144};
  if (unset("--head-dims")) settings.head_dims = {128};
  if (unset("--heads")) settings.num_q_heads = 32;
  if (unset("--kv-heads")) settings.num_kv_heads = 8;
}

// Error: an option was given that nothing measured reads.
Status check_given(const CLI::App& command, const bench::Settings& settings, bool cuda) {
  const bool layers =
      cuda || settings.wants("layer") || settings.wants("select") || settings.wants("compact");
  const struct {
    const char* option;
    bool is_read;
    const char* readers;
  } kReaders[] = {
      {"--isa", !cuda, "--backend cpu"},
      {"--threads", !cuda, "--backend cpu"},
      {"--ubatch", layers, "--bench layer, select or compact"},
      {"--window", layers || settings.wants("blocks"),
       "--bench layer, select or compact, and with --blocks"},
  };
  for (const auto& [option, is_read, readers] : kReaders) {
    if (is_read || command.count(option) == 0) continue;
    return Status::error(StatusCode::kInvalidArgument,
                         "%s %s is not read here; allowed: with %s; name that, or leave it out",
                         option, command.get_option(option)->as<std::string>().c_str(), readers);
  }
  return check_block_options(command, settings.blocks);
}

}  // namespace

void add_bench_options(CLI::App& command, BenchOptions& options) {
  bench::Settings& s = options.settings;
  options.command = &command;
  const auto list = [&](const char* name, auto& value, const char* help) {
    command.add_option(name, value, help)->delimiter(',')->capture_default_str();
  };
  list("--lengths", s.lengths, "prompt lengths, tokens");
  list("--head-dims", s.head_dims, "head dimensions");
  list("--keep", s.keep_ratios, "keep ratios of the sparse layers");
  command.add_option("--bench", s.benches, "what to measure: attend, compact, select, layer")
      ->delimiter(',')
      ->check(CLI::IsMember({"attend", "compact", "select", "layer"}))
      ->capture_default_str();
  command.add_option("--heads", s.num_q_heads, "query heads")->capture_default_str();
  command.add_option("--kv-heads", s.num_kv_heads, "kv heads")->capture_default_str();
  command.add_option("--window", s.local_window, "local fill's window")->capture_default_str();
  command.add_option("--ubatch", s.ubatch, "queries of the chunk layers")->capture_default_str();
  command.add_option("--threads", s.num_threads, "threads; 0: all cores")->capture_default_str();
  command.add_option("--repeats", s.repeats, "timed runs; the median is reported")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command
      .add_option("--isa", options.isa,
                  fmt::format("instruction set: {}", fmt::join(kWords<Isa>, ", ")))
      ->capture_default_str();
  command
      .add_option("--products", options.products,
                  "how attention multiplies on the CPU, exact, split and bf16, a row each "
                  "(docs/products.md); default: what this CPU has")
      ->delimiter(',')
      ->check(CLI::IsMember({"exact", "split", "bf16"}));
  command.add_option("--backend", options.backend, "backend to measure")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  add_blocks_option(command, options.blocks)
      ->description("block masks alone and over the selected tokens, instead of --bench (cpu)")
      ->excludes("--bench");
  add_block_options(command, s.blocks);
  command.add_flag("--json", options.json, "one JSON object a line");
  add_examples(command,
               "  tokensieve bench\n"
               "  tokensieve bench --backend cuda --lengths 8192,131072 --json\n"
               "  tokensieve bench --lengths 32768 --head-dims 64 --bench layer --keep 0.2\n"
               "  tokensieve bench --blocks flex --gamma 0.5 --lengths 8192\n"
               "  tokensieve bench --bench attend --products exact,split,bf16 --keep 1\n");
}

int run_bench(const BenchOptions& options) {
  bench::Settings settings = options.settings;
  const Result<Isa> isa = isa_from_name(options.isa.c_str());
  if (!isa.ok()) {
    print_err("tokensieve: {}\n", isa.status().message());
    return kExitUsage;
  }
  settings.isa = *isa;
  for (const std::string& word : options.products) {
    settings.products.push_back(*parse<Products>(word));
  }
  const bool cuda = options.backend == "cuda";
  if (options.blocks && cuda) {
    print_err("tokensieve: --blocks is measured on the CPU; leave --backend cuda out\n");
    return kExitUsage;
  }
  if (options.blocks.value_or(BlockPattern::kNone) != BlockPattern::kNone) {
    settings.blocks.pattern = *options.blocks;
    settings.benches = {"blocks"};
  }
  if (cuda) use_cuda_defaults(*options.command, settings);
  Status usable = check_given(*options.command, settings, cuda);
  if (usable.ok()) usable = bench::check_settings(settings);
  if (!usable.ok()) {
    print_err("tokensieve: {}\n", usable.message());
    return kExitUsage;
  }
  settings.llama_bin = llama_bin_folder().string();
  const std::function<void(const bench::Row&)> print = [&](const bench::Row& row) {
    options.json ? print_json(options.backend.c_str(), row) : print_text(row);
  };
  if (cuda && !options.json) print_header();
  const Status status = cuda ? bench::run_cuda(settings, print) : bench::run(settings, print);
  if (!status.ok()) return fail(status);
  return kExitOk;
}

}  // namespace tokensieve::cli
