// Which of our estimators an entry of a block golden is of, and what it should choose.
#pragma once

#include <string>

#include "verify/block_golden.h"
#include "verify/safetensors.h"

namespace tokensieve::verify {

// Masks of the official bf16 code: tiles that lie farther from their threshold than this share of
// their row's mass must be equal where the golden holds the scores; of all the others,
inline constexpr double kBf16Mass = 1.0 / 256;
// this share may differ (1 - Jaccard).
inline constexpr double kBlockMiss = 0.02;
// Masks of exact arithmetic: the oracle has the same; backends may differ by a tile or two of a few
// hundred, whose scores are equal in f32.
inline constexpr double kF32BlockMiss = 0.01;

// Appends the entry or entries called `name` (tensors `name`.mask, `name`.scores, ...).
Status read_block_entries(const SafeTensors& file, const std::string& name, BlockGolden& golden);

}  // namespace tokensieve::verify
