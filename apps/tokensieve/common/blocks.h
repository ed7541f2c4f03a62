// Settings of block masks as people name them: options of commands, keys of eval's configurations.
#pragma once

#include <string>

#include "tokensieve/blocks.h"
#include "tokensieve/status.h"

namespace tokensieve::cli {

// Patterns whose masks are made from q and k, so that a name is all they need.
inline constexpr BlockPattern kEstimatedPatterns[] = {
    BlockPattern::kFlex, BlockPattern::kPooled, BlockPattern::kAntidiagonal,
    BlockPattern::kVerticalSlash};

// "flex" or "flex, pooled": those that read a setting.
std::string readers_of(const BlockField& about);

// The error of a setting that was named, as `named`, beside a pattern that does not read it.
// pattern_option: how a pattern is named there, "--blocks " or "blocks=".
Status unread_setting(const BlockField& about, const std::string& named, BlockPattern pattern,
                      const std::string& pattern_option);

}  // namespace tokensieve::cli
