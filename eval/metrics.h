// How far two models' next-token distributions are apart.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tokensieve::eval {

// Logits of consecutive positions, and the tokens that really follow.
struct Predictions {
  size_t vocabulary = 0;
  std::vector<float> logits;     // [tokens][vocabulary]
  std::vector<int32_t> targets;  // [tokens]

  void add(std::span<const float> row, int32_t target);
  std::span<const float> row(size_t i) const {
    return {logits.data() + i * vocabulary, vocabulary};
  }
};

// Natural logarithms; means over the tokens.
struct Metrics {
  int32_t tokens = 0;
  double kl = 0;      // KL(reference || other)
  double kl_max = 0;  // of one token
  double top1 = 0;    // share of tokens with the same likeliest next token
  double nll = 0;     // of the real text
  double nll_dense = 0;
};

// Same vocabulary and tokens.
Metrics compare(const Predictions& reference, const Predictions& other);

}  // namespace tokensieve::eval
