// The published estimators of block masks, in double precision; sources in blocks.h.
#pragma once

#include <cstdint>

#include "core/tiles.h"
#include "ref/oracle.h"

namespace tokensieve::ref {

// The threshold of mask m: its own if the caller gives one each.
double own_threshold(const AttentionInputs& inputs, int64_t m, double common);

// Sets the tiles that mask m of sequence b visits; `mask` is all zeros.
void estimate(const Plan& plan, const AttentionInputs& inputs, int64_t b,
              const Selection& selection, int64_t m, const MaskRows& mask);

}  // namespace tokensieve::ref
