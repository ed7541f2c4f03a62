// What tests of products on matrix tiles share: which tiles, which inputs, how exact.
#pragma once

#include <algorithm>
#include <vector>

#include "support/cases.h"
#include "tokensieve/attention.h"

namespace tokensieve::test {

// Under a sanitizer, where the emulation takes ten times its time, split alone, whose kernel does
// all that bf16's does, and the largest cases only on the hardware's tiles.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr Products kTileProducts[] = {Products::kSplit};
inline constexpr bool kSlowEmulation = true;
#else
inline constexpr Products kTileProducts[] = {Products::kSplit, Products::kBf16};
inline constexpr bool kSlowEmulation = false;
#endif

// All cases; where the emulation is slow every fourth, of narrow heads.
inline std::vector<AttentionCase> tile_cases() {
  std::vector<AttentionCase> cases = all_cases();
  if (!kSlowEmulation) return cases;
  std::erase_if(cases, [](const AttentionCase& c) { return c.shape.head_dim > 64; });
  std::vector<AttentionCase> some;
  for (size_t i = 0; i < cases.size(); i += 4) some.push_back(cases[i]);
  return some;
}

// Whether this CPU has matrix tiles and the system grants them.
inline bool hardware_tiles() {
  if (!isa_supported(Isa::kAmx)) return false;
  const AttentionShape shape = self_attention(1, 1, 1, 16);
  const PlanOptions options = {.isa = Isa::kAmx, .products = Products::kBf16};
  return make_plan(shape, {.enabled = false}, options).value().options.products == Products::kBf16;
}

// The hardware's tiles where there are some, else the emulated ones.
inline Isa best_tiles() { return hardware_tiles() ? Isa::kAmx : Isa::kAmxEmulated; }

// The case with inputs that the products take.
inline AttentionCase on_tiles(AttentionCase c, Products products) {
  if (products == Products::kSplit && c.shape.kv_dtype == DType::kF32) {
    c.shape.kv_dtype = DType::kF16;
  }
  return c;
}

// rel-L2 of the output. split: 16 bits of q and of the weights, about 2^-17 of each product, which
// large logits (30 in the tables) carry into the weights. bf16: 2^-9 of q, k, weights and v each,
// 3e-3 together where logits are about 1, and the more the larger they are.
inline double tile_tolerance(const AttentionCase& c, Products products) {
  return std::max(products == Products::kSplit ? 2e-5 : 2e-2, output_tolerance(c));
}
// The same of the log-sum-exp, which averages.
inline double lse_tolerance(Products products) {
  return products == Products::kSplit ? 1e-5 : 5e-3;
}

}  // namespace tokensieve::test
