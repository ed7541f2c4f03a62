// llama.cpp's own flash attention as a yardstick: ggml's CPU backend on the same inputs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokensieve/tokensieve.h"

namespace tokensieve::bench {

// Causal attention, q and out f32 [seqlen, heads, dim], k and v f16 [seqlen, kv_heads, dim], as
// llama.cpp lays them out.
class GgmlFlashAttention {
 public:
  virtual ~GgmlFlashAttention() = default;
  // Milliseconds of one computation, or an error.
  virtual Result<double> run(const AttentionShape& shape, const float* q, const uint16_t* k,
                             const uint16_t* v, float* out) = 0;
};

// Null if this build has no ggml or llama_bin holds no CPU backend.
std::unique_ptr<GgmlFlashAttention> make_ggml_flash_attention(const std::string& llama_bin,
                                                              int num_threads);

}  // namespace tokensieve::bench
