#include "verify/verify.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "common/output.h"
#include "verify/blocks.h"
#include "verify/checks.h"

namespace tokensieve::verify {
namespace {

constexpr int kOk = 0, kMissed = 1, kUsage = 2;

// A backend with one instruction set: "ref", "cpu/avx2".
struct Target {
  std::string name;
  Backend backend;
  Isa isa;
};

std::vector<Target> all_targets() {
  std::vector<Target> targets = {{"ref", Backend::kRef, Isa::kAuto}};
  if (backend_available(Backend::kCpu)) {
    for (Isa isa : supported_isas()) {
      targets.push_back({std::string("cpu/") + isa_name(isa), Backend::kCpu, isa});
    }
  }
  if (backend_available(Backend::kCuda)) targets.push_back({"cuda", Backend::kCuda, Isa::kAuto});
  return targets;
}

// The targets that a filter word names: exactly, or by their backend.
bool matches(const Target& target, const std::string& word) {
  return target.name == word || target.name.starts_with(word + "/");
}

// False, with a message, if a word names nothing.
bool choose_targets(const std::vector<std::string>& words, std::vector<Target>& chosen) {
  const std::vector<Target> all = all_targets();
  chosen = words.empty() ? all : std::vector<Target>{};
  for (const std::string& word : words) {
    const size_t before = chosen.size();
    std::string allowed;
    for (const Target& target : all) {
      if (matches(target, word)) chosen.push_back(target);
      allowed += (allowed.empty() ? "" : ", ") + target.name;
    }
    if (chosen.size() == before) {
      cli::print_err("tokensieve verify: backend \"{}\" is not here; allowed: cpu, {}\n", word,
                     allowed);
      return false;
    }
  }
  return true;
}

// Prints checks as they come and counts the misses.
class Report {
 public:
  explicit Report(bool json) : json_(json) {}

  void add(const std::string& case_name, const std::string& target, const Check& check) {
    ++checks_;
    misses_ += !check.ok();
    if (json_) {
      nlohmann::ordered_json line = {{"case", case_name},      {"backend", target},
                                     {"stage", check.stage},   {"measure", check.measure},
                                     {"error", check.error},   {"tolerance", check.tolerance},
                                     {"detail", check.detail}, {"ok", check.ok()}};
      print(line);
    } else {
      // Stages that are entries of a block golden have long names.
      const int width = check.stage.size() > 9 ? 38 : 9;
      cli::print_out("{:<18} {:<12} {:<{}} {:<23} {:>9.2e} of {:>7.1e}  {:<4}  {}\n", case_name,
                     target, check.stage, width, check.measure, check.error, check.tolerance,
                     check.ok() ? "ok" : "MISS", check.detail);
    }
    std::fflush(stdout);
  }

  // What a golden holds and nothing here can be held against.
  void add_not_covered(const std::string& case_name, const std::string& target,
                       const std::string& stage, const std::string& why) {
    if (json_) {
      print({{"case", case_name}, {"backend", target}, {"stage", stage}, {"not_covered", why}});
    } else {
      cli::print_out("{:<18} {:<12} {:<38} not covered: {}\n", case_name, target, stage, why);
    }
    std::fflush(stdout);
  }

  void add_malformed(const std::string& path, const Status& status) {
    ++misses_;
    cli::print_err("tokensieve verify: {}\n", status.message());
    if (json_) {
      print({{"case", std::filesystem::path(path).stem().string()},
             {"problem", status.message()},
             {"ok", false}});
    }
  }

  int finish(size_t cases) const {
    if (!json_) {
      cli::print_out("{} cases, {} checks, {}\n", cases, checks_,
                     misses_ == 0 ? "all within tolerance" : fmt::format("{} MISSED", misses_));
    }
    return misses_ == 0 ? kOk : kMissed;
  }

 private:
  // Names come from files: bytes that are not UTF-8 are replaced, not thrown at.
  static void print(const nlohmann::ordered_json& line) {
    cli::print_out("{}\n", line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }

  bool json_;
  int64_t checks_ = 0;
  int64_t misses_ = 0;
};

void verify_case(const std::string& path, const std::vector<Target>& targets, Executor& executor,
                 Report& report) {
  const Result<GoldenCase> golden = load_golden(path);
  if (!golden.ok()) return report.add_malformed(path, golden.status());
  ref::OracleResult oracle;
  const std::vector<Check> oracle_checks = check_oracle(*golden, executor, oracle);
  const bool have_oracle = !oracle.out.empty();
  for (const Target& target : targets) {
    if (target.backend != Backend::kRef && !have_oracle) continue;
    const std::vector<Check> checks =
        target.backend == Backend::kRef
            ? oracle_checks
        : target.backend == Backend::kCuda
            ? check_cuda(*golden, oracle, executor)
            : check_backend(*golden, oracle, target.backend, target.isa, executor);
    for (const Check& check : checks) report.add(golden->name, target.name, check);
  }
}

void verify_blocks(const std::string& path, const std::vector<Target>& targets,
                   Executor& executor, Report& report) {
  const Result<BlockGolden> golden = load_block_golden(path);
  if (!golden.ok()) return report.add_malformed(path, golden.status());
  for (const Check& check : golden->checks) report.add(golden->name, "file", check);
  for (const BlockEntry& entry : golden->entries) {
    if (!entry.not_covered.empty()) {
      report.add_not_covered(golden->name, "-", entry.name, entry.not_covered);
    }
  }
  for (const Target& target : targets) {
    for (const BlockEntry& entry : golden->entries) {
      if (!entry.not_covered.empty()) continue;
      const Result<Check> check =
          check_blocks(*golden, entry, target.backend, target.isa, executor);
      if (check.ok()) {
        report.add(golden->name, target.name, *check);
      } else {
        report.add_not_covered(golden->name, target.name, entry.name, check.status().message());
      }
    }
  }
}

}  // namespace

int run_verify(const VerifyOptions& options) {
  std::string dir = options.dir;
  if (const char* variable = std::getenv("TOKENSIEVE_GOLDEN_DIR"); dir.empty() && variable) {
    dir = variable;
  }
  if (dir.empty()) {
    cli::print_err(
        "tokensieve verify: name the folder of golden *.safetensors files, or set "
        "TOKENSIEVE_GOLDEN_DIR\n");
    return kUsage;
  }
  std::vector<Target> targets;
  if (!choose_targets(options.backends, targets)) return kUsage;
  const Result<std::vector<std::string>> paths = list_golden(dir);
  if (!paths.ok()) {
    cli::print_err("tokensieve verify: {}\n", paths.status().message());
    return kUsage;
  }
  const std::unique_ptr<Executor> executor = make_thread_pool(0);
  Report report(options.json);
  for (const std::string& path : *paths) {
    (is_block_golden(path) ? verify_blocks : verify_case)(path, targets, *executor, report);
  }
  return report.finish(paths->size());
}

}  // namespace tokensieve::verify
