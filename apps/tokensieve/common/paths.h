// Where things are: the plug-in, llama.cpp, shipped profiles and models, the cache folder.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace tokensieve::cli {

namespace fs = std::filesystem;

// Folder of this program.
fs::path program_folder();

// Places of the plug-in, best first: beside the program (build), lib/tokensieve (installed).
// The environment variable TOKENSIEVE_PLUGIN names another file.
std::vector<fs::path> plugin_candidates();
std::optional<fs::path> find_plugin();
// The preload shim, beside the plug-in.
std::optional<fs::path> find_preload_shim();

// Folders that hold profiles/, models/ and data/: TOKENSIEVE_SHARE, the install's share, the source
// tree.
std::vector<fs::path> share_folders();
// First share folder's file `relative` that exists.
std::optional<fs::path> find_shared(const fs::path& relative);

// TOKENSIEVE_CACHE, else the user's cache folder; the set-up fills it.
fs::path cache_folder();

// bin/ of the llama.cpp build that this program was built against, or TOKENSIEVE_LLAMA_BIN.
// Empty in a build without llama.cpp.
fs::path llama_bin_folder();

// An environment variable; nullopt when unset or empty.
std::optional<std::string> environment(const char* name);

}  // namespace tokensieve::cli
