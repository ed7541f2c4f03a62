// The attend benches: dense attention with every kind of products, against ggml's.
#pragma once

#include <functional>

#include "bench.h"
#include "timer.h"
#include "yardstick_ggml.h"

namespace tokensieve::bench {

// Dense attention of `rows` tokens; with keep < 1 these are the compact rows of a longer prompt.
// All products and ggml's flash attention (null: none) take turns, so that they share what the
// machine does. `emit` gets rows against ggml, and of products other than exact against exact.
Status bench_attend(const Settings& settings, const Timer& timer, GgmlFlashAttention* ggml,
                    int32_t dim, int64_t rows, double keep,
                    const std::function<void(const Row&)>& emit);

}  // namespace tokensieve::bench
