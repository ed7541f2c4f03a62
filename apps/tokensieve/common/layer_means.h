// What the layers of one run say together.
#pragma once

#include <optional>
#include <ranges>

namespace tokensieve::cli {

struct LayerMeans {
  int sparse_layers = 0;
  double keep_ratio = 1;    // mean over the layers that ran sparse; 1: none did
  double work = 1;          // computed / causal (query, key) pairs, mean over all layers
  double attention_ms = 0;  // their sum
  double block_density = 1;  // mean over the layers whose block masks left tiles out; 1: none did
};

// Of LayerStats, or of the lines that a run file has for them.
template <std::ranges::range Layers>
LayerMeans means_of(const Layers& layers) {
  double keep = 0, work = 0, count = 0, density = 0, masked = 0;
  LayerMeans means;
  for (const auto& layer : layers) {
    if (layer.ran_sparse()) {
      keep += layer.keep_ratio;
      ++means.sparse_layers;
    }
    if (const double own = std::optional<double>(layer.block_density).value_or(1); own < 1) {
      density += own;
      ++masked;
    }
    work += layer.work;
    ++count;
    means.attention_ms += layer.attention_ms;
  }
  if (means.sparse_layers > 0) means.keep_ratio = keep / means.sparse_layers;
  if (masked > 0) means.block_density = density / masked;
  if (count > 0) means.work = work / count;
  return means;
}

}  // namespace tokensieve::cli
