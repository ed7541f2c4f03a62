// What every layer did: process-wide, over all contexts, behind a mutex.
#pragma once

#include <cstdint>
#include <cstdio>

#include "tokensieve/tokensieve.h"
#include "tokensieve_ggml.h"

namespace tokensieve::ggml {

// One attention node.
struct NodeReport {
  int32_t layer = -1;
  bool sparse = false;         // at least one run was
  bool never_sparse = false;   // at least one run cannot be, whatever the settings
  double kept = 0;             // kept tokens of the sparse runs
  double tokens = 0;           // tokens of the sparse runs
  double pairs = 0;            // (query, key) pairs per head
  double dense_pairs = 0;      // that the mask shows
  double masked_pairs = 0;     // dense_pairs times the density of block masks
  double ms = 0;
  const char* reason = "";     // of the last dense run; copied
  Products products = Products::kExact;  // of a run that is not exact, if there is one
  const char* products_reason = "";  // of the last run that is exact though others were wanted
};

void add_to_stats(const NodeReport& report);
void reset_stats();

// tokensieve_ggml_stats_fn.
int32_t copy_stats(tokensieve_ggml_layer_stats* stats, int32_t capacity);

// A table, one line a layer and one for the sum.
void print_stats(std::FILE* file);

}  // namespace tokensieve::ggml
