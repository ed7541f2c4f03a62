#include "exec.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "common/command.h"
#include "common/options.h"
#include "common/paths.h"
#include "common/profiles.h"
#include "tokensieve/names.h"

namespace tokensieve::cli {
namespace {

bool is_executable(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && ::access(path.c_str(), X_OK) == 0;
}

// A path as it is, else PATH, else llama.cpp's own bin folder. Empty: `searched` says where.
fs::path find_program(const std::string& name, std::string& searched) {
  if (name.find('/') != std::string::npos) {
    searched = name;
    return is_executable(name) ? fs::path(name) : fs::path();
  }
  std::string_view rest = std::getenv("PATH") != nullptr ? std::getenv("PATH") : "";
  searched = fmt::format("PATH ({})", rest);
  while (!rest.empty()) {
    const size_t end = rest.find(':');
    const fs::path candidate = fs::path(rest.substr(0, end)) / name;
    if (is_executable(candidate)) return candidate;
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
  if (const fs::path folder = llama_bin_folder(); !folder.empty()) {
    searched += fmt::format(" and {}", folder.string());
    if (is_executable(folder / name)) return folder / name;
  }
  return {};
}

void set_environment(const char* name, const std::string& value) {
  ::setenv(name, value.c_str(), /*overwrite=*/1);
}

void put_first(const char* name, const std::string& item) {
  const auto others = environment(name);
  set_environment(name, item + (others ? ":" + *others : ""));
}

// ld.so splits LD_PRELOAD at blanks and colons, LD_LIBRARY_PATH at colons and semicolons; neither
// can quote.
Status preload(const fs::path& shim) {
  const std::string path = shim.string();
  if (path.find_first_of(" :") == std::string::npos) {
    put_first("LD_PRELOAD", path);
    return {};
  }
  if (path.find_first_of(":;") != std::string::npos) {
    return Status::error(StatusCode::kInvalidArgument,
                         "exec cannot preload %s: the dynamic linker ends a folder's name at \":\" "
                         "and \";\"; move or link the folder to a name without them",
                         path.c_str());
  }
  put_first("LD_LIBRARY_PATH", shim.parent_path().string());
  put_first("LD_PRELOAD", shim.filename().string());
  return {};
}

// The plug-in through GGML_BACKEND_PATH for programs that read it, and through the preload shim
// for those with their CPU backend compiled in, which do not.
Status set_plugin_environment(const ExecOptions& options) {
  const auto plugin = find_plugin();
  const auto shim = find_preload_shim();
  if (!plugin || !shim) {
    return Status::error(StatusCode::kNotFound,
                         "the llama.cpp plug-in or its preload shim is missing (looked in %s); "
                         "build them with `make build`",
                         plugin_candidates().front().parent_path().c_str());
  }
  set_environment("GGML_BACKEND_PATH", plugin->string());
  TOKENSIEVE_RETURN_IF_ERROR(preload(*shim));
  if (!options.mode.empty()) set_environment("TOKENSIEVE_MODE", options.mode);
  // llama.cpp's programs read these where their own options (-b, -ub) do not say otherwise.
  for (const char* name : {"LLAMA_ARG_UBATCH", "LLAMA_ARG_BATCH"}) {
    if (options.mode == "off" || environment(name)) continue;
    set_environment(name, std::to_string(options.ubatch));
  }
  if (options.stats) set_environment("TOKENSIEVE_STATS", "1");
  if (options.products != Products::kAuto) {
    set_environment("TOKENSIEVE_PRODUCTS", name_of(options.products));
  }
  if (options.profile.empty()) return {};
  const Result<ChosenProfile> profile = load_named_profile(options.profile);
  if (!profile.ok()) return profile.status();
  set_environment("TOKENSIEVE_PROFILE", fs::absolute(profile->source).string());
  return {};
}

}  // namespace

void add_exec_options(CLI::App& command, ExecOptions& options) {
  command
      .add_option("--mode", options.mode,
                  "what the plug-in does (chunk and whole, of earlier versions, mean sparse); "
                  "default: sparse")
      ->check(CLI::IsMember({"off", "dense", "sparse", "chunk", "whole"}))
      ->type_name("off|dense|sparse");
  add_ubatch_option(command, options.ubatch);
  command.add_option("--profile", options.profile, "layer profile: a file or a shipped name")
      ->type_name("FILE");
  add_products_option(command, options.products, "default: the profile's");
  command.add_flag("--stats", options.stats, "print what every layer did at the end");
  command
      .add_option("PROGRAM", options.command,
                  "a llama.cpp program and its arguments, after --; looked up in PATH, then in the "
                  "llama.cpp build")
      ->required()
      ->type_name("");
  command.positionals_at_end();
  add_examples(command,
               "  tokensieve exec -- llama-bench -m model.gguf -p 8192 -n 0\n"
               "  tokensieve exec --profile smollm2 --ubatch 8192 -- llama-completion -m "
               "model.gguf -f prompt.txt\n");
}

int run_exec(const ExecOptions& options) {
  std::string searched;
  const fs::path program = find_program(options.command.front(), searched);
  if (program.empty()) {
    print_err(
        "tokensieve: there is no program \"{}\" in {}; give its path, or set TOKENSIEVE_LLAMA_BIN "
        "to the bin folder of a llama.cpp build\n",
        options.command.front(), searched);
    return kExitFailure;
  }
  if (const Status status = set_plugin_environment(options); !status.ok()) return fail(status);
  std::vector<char*> arguments;
  for (const std::string& argument : options.command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  ::execv(program.c_str(), arguments.data());
  print_err("tokensieve: cannot start {}: {}\n", program.string(), std::strerror(errno));
  return kExitFailure;
}

}  // namespace tokensieve::cli
