// The keys of a configuration: what each sets.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "eval/config.h"

namespace tokensieve::eval {

// Keys with their values, or with their help.
using Settings = std::vector<std::pair<std::string, std::string>>;

Settings keys_and_help();

// A key of the selection holds for all layers, also for those that the profile sets apart. Errors
// name the value or key and what is allowed.
Status set_key(Config& config, const std::string& name, const std::string& text);

// An error for a setting of block masks that no layer's pattern reads.
Status check_block_keys(const Profile& profile, const Settings& settings);

}  // namespace tokensieve::eval
