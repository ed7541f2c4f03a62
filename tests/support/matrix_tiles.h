// What tests of products on matrix tiles share: which tiles, which inputs, how exact.
#pragma once

#include <algorithm>
#include <vector>

#include "support/cases.h"
#include "tokensieve/backend.h"

namespace tokensieve::test {

inline constexpr Products kTileProducts[] = {Products::kSplit, Products::kBf16};

// The emulated tiles and, where there are some, the hardware's.
inline std::vector<Isa> tile_isas() {
  if (isa_supported(Isa::kAmx)) return {Isa::kAmxEmulated, Isa::kAmx};
  return {Isa::kAmxEmulated};
}

// The fastest of them.
inline Isa best_tiles() { return tile_isas().back(); }

// The case with inputs that the products take.
inline AttentionCase on_tiles(AttentionCase c, Products products) {
  if (products == Products::kSplit && c.shape.kv_dtype == DType::kF32) {
    c.shape.kv_dtype = DType::kF16;
  }
  return c;
}

// rel-L2 of the output. split: 16 bits of q and of the weights, about 2^-17 of each product; the
// tables' logits reach 30, so that weights are wrong by 1e-5 where one key has it all. bf16: 2^-9 of
// q, k, weights and v each, 3e-3 together, and the more the larger the logits are.
inline double tile_tolerance(const AttentionCase& c, Products products) {
  return std::max(products == Products::kSplit ? 2e-5 : 2e-2, output_tolerance(c));
}
// The same of the log-sum-exp, which averages.
inline double lse_tolerance(Products products) {
  return products == Products::kSplit ? 1e-5 : 5e-3;
}

}  // namespace tokensieve::test
