// The docs' code is the code that is tested, and their links lead somewhere.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tokensieve/profile.h"

namespace tokensieve {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& path) {
  std::ifstream file(fs::path(TOKENSIEVE_SOURCE_DIR) / path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// The bodies of ```language blocks.
std::vector<std::string> code_blocks(const std::string& text, const std::string& language) {
  const std::string open = "```" + language + "\n";
  std::vector<std::string> blocks;
  for (size_t at = text.find(open); at != std::string::npos; at = text.find(open, at)) {
    at += open.size();
    const size_t end = text.find("```", at);
    blocks.push_back(text.substr(at, end - at));
    at = end + 3;
  }
  return blocks;
}

// A lambda looks like a link.
std::string without_code(std::string text) {
  for (size_t at = text.find("```"); at != std::string::npos; at = text.find("```", at)) {
    const size_t end = text.find("```", at + 3);
    text.erase(at, end == std::string::npos ? end : end + 3 - at);
  }
  return text;
}

TEST(Readme, ShowsTheMinimalExample) {
  const std::vector<std::string> blocks = code_blocks(read("README.md"), "cpp");
  ASSERT_EQ(blocks.size(), 1u);
  EXPECT_EQ(blocks[0], read("examples/minimal.cc"));
}

TEST(ProfileDoc, ShowsAValidProfile) {
  const std::vector<std::string> blocks = code_blocks(read("docs/profile.md"), "json");
  ASSERT_EQ(blocks.size(), 1u);
  const Result<Profile> profile = parse_profile(blocks[0], "docs/profile.md");
  EXPECT_TRUE(profile.ok()) << profile.status().message();
}

// Every key that profiles know is in the table, and the other way round it is known.
TEST(ProfileDoc, NamesEverySelectKey) {
  const std::string text = read("docs/profile.md");
  const std::vector<const char*> keys = {
      "budget",   "tau",           "keep_ratio", "keep_count", "obs_window", "pool_width",
      "min_keep", "protect_first", "min_drop",   "share",      "fill",       "local_window",
      "sinks",    "arithmetic"};
  for (const char* key : keys) {
    EXPECT_NE(text.find("| `" + std::string(key) + "` |"), std::string::npos) << key;
    const std::string json = R"({"tokensieve_profile": 1, "fingerprint": {}, "sparse_layers": [],
        "select": {")" + std::string(key) + R"(": []}})";
    const std::string message = parse_profile(json, "test").status().message();
    EXPECT_EQ(message.find("unknown key"), std::string::npos) << message;
  }
}

TEST(Docs, RelativeLinksExist) {
  std::vector<fs::path> files = {"README.md", "CONTRIBUTING.md"};
  for (const auto& entry : fs::directory_iterator(fs::path(TOKENSIEVE_SOURCE_DIR) / "docs")) {
    const fs::path name = entry.path().filename();
    if (name.extension() == ".md") files.push_back("docs" / name);
  }
  int links = 0;
  for (const fs::path& file : files) {
    const std::string text = without_code(read(file));
    for (size_t at = text.find("]("); at != std::string::npos; at = text.find("](", at + 1)) {
      std::string target = text.substr(at + 2, text.find(')', at) - at - 2);
      target = target.substr(0, target.find('#'));
      if (target.empty() || target.find("://") != std::string::npos) continue;
      const fs::path path = fs::path(TOKENSIEVE_SOURCE_DIR) / file.parent_path() / target;
      EXPECT_TRUE(fs::exists(path)) << file << " links to " << target;
      ++links;
    }
  }
  EXPECT_GT(links, 5);
}

}  // namespace
}  // namespace tokensieve
