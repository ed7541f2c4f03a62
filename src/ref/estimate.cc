#include "ref/estimate.h"

namespace tokensieve::ref {

double own_threshold(const AttentionInputs& inputs, int64_t m, double common) {
  return inputs.block_thresholds != nullptr ? inputs.block_thresholds[m] : common;
}

void estimate(const Plan&, const AttentionInputs&, int64_t, const Selection&, int64_t,
              const MaskRows&) {}  // the ref helper's next commit

}  // namespace tokensieve::ref
