// Stage select: which prefix tokens each set keeps.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tokensieve/attention.h"

namespace tokensieve::ref {

// [num_sets][keep + suffix_len] original positions, ascending: the `keep` best prefix
// tokens (ties to the lowest index, the first protect_first always among them) and all tokens
// after the prefix. pooled is [layer_heads, prefix_len].
std::vector<std::vector<int32_t>> select(const Plan& plan, std::span<const double> pooled,
                                         int64_t keep);

}  // namespace tokensieve::ref
