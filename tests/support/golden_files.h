// Where tests find golden cases: $TOKENSIEVE_GOLDEN_DIR, or tests/golden in the repository and,
// where it exists, ../shared/golden beside it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace tokensieve::test {

// Paths by case name; a name that several folders hold counts once. Empty if there is none.
inline std::map<std::string, std::string> golden_files() {
  std::vector<std::filesystem::path> folders;
  if (const char* folder = std::getenv("TOKENSIEVE_GOLDEN_DIR"); folder && *folder) {
    folders = {folder};
  } else {
    const std::filesystem::path root = TOKENSIEVE_SOURCE_DIR;
    folders = {root / "tests" / "golden", root / ".." / "shared" / "golden"};
  }
  std::map<std::string, std::string> paths;
  for (const auto& folder : folders) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      if (entry.path().extension() == ".safetensors") {
        paths.emplace(entry.path().stem().string(), entry.path().string());
      }
    }
  }
  return paths;
}

}  // namespace tokensieve::test
