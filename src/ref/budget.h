// Stage budget: how many prefix tokens a layer keeps.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tokensieve/attention.h"

namespace tokensieve::ref {

struct Budget {
  std::vector<double> pooled;  // [layer_heads, prefix_len]: each head's smoothed token_score
  std::vector<double> layer;   // [prefix_len]: mean of pooled over the heads, normalised
  int64_t drop = 0;            // tokens whose running mass stays below tau (before the one more)
  int64_t keep = 0;            // kept prefix tokens; prefix_len: nothing is dropped
};

Budget budget(const Plan& plan, std::span<const double> token_score);

// Average over `pool_width` neighbours; missing neighbours are zero but count in the divisor.
// kReferenceRounding rounds the scores and the averages to bf16.
std::vector<double> smooth(std::span<const double> score, int pool_width, Arithmetic arithmetic);

// Mean of rows first, first + 1, ... first + count - 1 of x [rows, size].
std::vector<double> mean_of_rows(std::span<const double> x, int64_t size, int64_t first,
                                 int64_t count, Arithmetic arithmetic);

// x / (sum + 1e-8).
std::vector<double> normalise(std::span<const double> x, Arithmetic arithmetic);

// How many of the smallest entries of a normalised x have a running sum below tau.
int64_t drop_count(std::vector<double> x, double tau, Arithmetic arithmetic);

}  // namespace tokensieve::ref
