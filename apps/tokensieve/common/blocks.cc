#include "common/blocks.h"

#include "tokensieve/names.h"

namespace tokensieve::cli {

std::string readers_of(const BlockField& about) {
  std::string words;
  for (const BlockPattern pattern : kEstimatedPatterns) {
    if (!about.used_by({.pattern = pattern})) continue;
    words += (words.empty() ? "" : ", ") + std::string(name_of(pattern));
  }
  return words;
}

Status unread_setting(const BlockField& about, const std::string& named, BlockPattern pattern,
                      const std::string& pattern_option) {
  return Status::error(StatusCode::kInvalidArgument,
                       "%s is not read with %s%s; allowed: with %s%s; name such a pattern, or "
                       "leave it out",
                       named.c_str(), pattern_option.c_str(), name_of(pattern),
                       pattern_option.c_str(), readers_of(about).c_str());
}

}  // namespace tokensieve::cli
