// Stage compact by itself: gathers the kept rows of a tensor.
#include <cstring>

#include "cpu/kept_rows.h"

namespace tokensieve::cpu {

Status compact(const Plan& plan, const TensorView& x, const KeepSet& keep,
               const TensorView& compacted, const RunOptions& options) {
  const size_t bytes = static_cast<size_t>(plan.shape.head_dim) * dtype_size(x.dtype);
  for_heads(plan, x, compacted, keep, options,
            [&](int64_t b, int64_t head, int64_t source, const int32_t* list, int64_t count) {
              for (int64_t r = 0; r < count; ++r) {
                std::memcpy(row_at(compacted, b, r, head), row_at(x, b, list[r], source), bytes);
              }
            });
  return {};
}

}  // namespace tokensieve::cpu
