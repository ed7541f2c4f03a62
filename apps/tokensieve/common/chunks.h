// Tokens that are read at a time (llama.cpp's ubatch) unless the user says otherwise.
#pragma once

#include <cstdint>

namespace tokensieve::cli {

// llama.cpp's default, and the cheapest for its own attention: 6,997 tokens of SmolLM2 took 86 CPU
// seconds at 512, 98 at 2048 and 91 in one ubatch (one thread, one run each).
inline constexpr int32_t kStockUbatch = 512;
// Ours: several observation windows long, and its mask of a 128K context takes half a GiB.
inline constexpr int32_t kChunkUbatch = 2048;

}  // namespace tokensieve::cli
