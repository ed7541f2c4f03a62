// Tokens that are read at a time (llama.cpp's ubatch) unless the user says otherwise.
#pragma once

#include <cstdint>

namespace tokensieve::cli {

// llama.cpp's default, and the cheapest for its own attention: 6,997 tokens of SmolLM2 took 86 CPU
// seconds at 512, 98 at 2048 and 91 in one ubatch (one thread, one run each).
inline constexpr int32_t kStockUbatch = 512;
// Ours: several observation windows long.
inline constexpr int32_t kChunkUbatch = 2048;
// Every chunk scores all tokens so far, which a long prompt notices: 127K tokens took 20 minutes in
// chunks of 4096, whose mask is 1 GiB there, and were not done by then in chunks of 2048.
inline constexpr int32_t kLongUbatch = 4096;
inline constexpr int64_t kLongPrompt = 65536;

constexpr int32_t chunk_ubatch(int64_t prompt_tokens) {
  return prompt_tokens > kLongPrompt ? kLongUbatch : kChunkUbatch;
}

}  // namespace tokensieve::cli
