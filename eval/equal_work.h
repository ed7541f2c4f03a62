// Baselines get as much attention work as the selection that they stand beside, as far as is known
// before it runs.
#pragma once

#include <cstdint>
#include <optional>

#include "eval/config.h"

namespace tokensieve::eval {

// (query, key) pairs of causal attention.
inline double causal_pairs(double tokens) { return tokens * (tokens + 1) / 2; }

// An estimate (work_of): computed / causal pairs of a sparse layer that reads a prompt of so many
// tokens, `chunk` at a time (0: at once). 1 with a tau budget: nobody knows before.
double layer_work(const ModelFingerprint& model, const SelectConfig& select, int64_t tokens,
                  int64_t chunk);

// What really runs on a prompt of so many tokens.
struct Resolved {
  Profile profile;
  int64_t dense_rows = 0;  // so many last rows see everything, whatever the profile says
  std::optional<double> work;  // of a sparse layer, where those rows count
};
Resolved resolve(const Config& config, int64_t tokens);

}  // namespace tokensieve::eval
