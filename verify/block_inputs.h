// Inputs of the block goldens: structured q, k, v from an integer hash. Everything is a sum of
// dyadic fractions, exact in double in any order and rounded to bf16 once: equal bits in any
// language (tests/golden/blocks/make.py).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tokensieve/attention.h"

namespace tokensieve::verify {

inline constexpr int32_t kBlockInputsDim = 128;
inline constexpr int64_t kBlockInputsLeast = 640;  // tokens

struct BlockInputs {
  AttentionShape shape;           // bf16; out f32
  std::vector<uint16_t> q, k, v;  // [heads, tokens, dim]

  AttentionInputs view() const;
  std::string sha256() const;  // of q, k and v as f32
};

BlockInputs make_block_inputs(int64_t tokens, int32_t q_heads, int32_t kv_heads, uint64_t seed);

}  // namespace tokensieve::verify
