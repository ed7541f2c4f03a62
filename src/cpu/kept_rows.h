// What compact and scatter share: the walk over every head's kept tokens.
#pragma once

#include "cpu/context.h"

namespace tokensieve::cpu {

// Calls body(batch, head of `rows`, head of `full`, indices, count) for every output head of the
// sequences that have indices; one with count = seqlen_kv runs dense and has none.
template <typename F>
void for_heads(const Plan& plan, const TensorView& full, const TensorView& rows,
               const KeepSet& keep, const RunOptions& options, F&& body) {
  const int64_t row_heads = rows.shape[2];
  executor_of(options).parallel_for(plan.shape.batch * row_heads, [&](int64_t i, int) {
    const int64_t b = i / row_heads;
    const int64_t head = i % row_heads;
    if (keep.count[b] == plan.shape.seqlen_kv) return;
    const int64_t set = b * plan.num_sets + head * plan.num_sets / row_heads;
    body(b, head, head * full.shape[2] / row_heads, keep.indices + set * keep.capacity,
         keep.count[b]);
  });
}

}  // namespace tokensieve::cpu
