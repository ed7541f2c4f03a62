// Entries of MInference in a block golden: the columns and distances of every head.
#pragma once

#include <string>

#include "verify/block_golden.h"
#include "verify/safetensors.h"

namespace tokensieve::verify {

// Reads `entry.name`.verticals and .distances, i32 [q heads, count], into entry.expected and
// entry.density. method: the name without what says that it is over tokens.
Status read_lines(const SafeTensors& file, const std::string& method, BlockEntry& entry,
                  const BlockGolden& golden);

}  // namespace tokensieve::verify
