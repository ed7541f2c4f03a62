#include "common/paths.h"

#include <cstdlib>

namespace tokensieve::cli {
namespace {

constexpr char kPluginName[] = "libggml-tokensieve.so";
constexpr char kPreloadName[] = "libtokensieve_preload.so";

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

}  // namespace

std::optional<std::string> environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

fs::path program_folder() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::current_path() : program.parent_path();
}

std::vector<fs::path> plugin_candidates() {
  if (const auto named = environment("TOKENSIEVE_PLUGIN")) return {*named};
  const fs::path folder = program_folder();
  return {folder / kPluginName, folder.parent_path() / "lib" / "tokensieve" / kPluginName};
}

std::optional<fs::path> find_plugin() {
  for (const fs::path& candidate : plugin_candidates()) {
    if (is_file(candidate)) return fs::absolute(candidate).lexically_normal();
  }
  return std::nullopt;
}

std::optional<fs::path> find_preload_shim() {
  const auto plugin = find_plugin();
  if (!plugin) return std::nullopt;
  const fs::path shim = plugin->parent_path() / kPreloadName;
  return is_file(shim) ? std::optional(shim) : std::nullopt;
}

std::vector<fs::path> share_folders() {
  std::vector<fs::path> folders;
  if (const auto named = environment("TOKENSIEVE_SHARE")) folders.emplace_back(*named);
  folders.push_back(program_folder().parent_path() / "share" / "tokensieve");
  folders.emplace_back(TOKENSIEVE_SOURCE_DIR);
  return folders;
}

std::optional<fs::path> find_shared(const fs::path& relative) {
  for (const fs::path& folder : share_folders()) {
    if (is_file(folder / relative)) return folder / relative;
  }
  return std::nullopt;
}

fs::path cache_folder() {
  if (const auto named = environment("TOKENSIEVE_CACHE")) return *named;
  if (const auto base = environment("XDG_CACHE_HOME")) return fs::path(*base) / "tokensieve";
  return fs::path(environment("HOME").value_or("/root")) / ".cache" / "tokensieve";
}

fs::path llama_bin_folder() {
  if (const auto named = environment("TOKENSIEVE_LLAMA_BIN")) return *named;
  return TOKENSIEVE_LLAMA_BIN_DIR;
}

}  // namespace tokensieve::cli
