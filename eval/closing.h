// What `tokensieve eval` shows at its end: the report's headline numbers, for each length.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tokensieve/status.h"

namespace tokensieve::eval {

Result<std::string> closing_tables(const std::string& path, const std::vector<int32_t>& lengths);
Result<std::string> closing_json(const std::string& path, const std::vector<int32_t>& lengths);

}  // namespace tokensieve::eval
