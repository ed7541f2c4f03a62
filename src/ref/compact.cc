#include "ref/compact.h"

#include <cstring>

#include "ref/elements.h"

namespace tokensieve::ref {

Status compact(const Plan& plan, const TensorView& x, const KeepSet& keep,
               const TensorView& compacted, const RunOptions&) {
  const int64_t heads = compacted.shape[2];
  const size_t element = dtype_size(x.dtype);
  const auto* from = static_cast<const std::byte*>(x.data);
  auto* to = static_cast<std::byte*>(compacted.data);
  for (int64_t b = 0; b < plan.shape.batch; ++b) {
    if (keep.count[b] >= plan.shape.seqlen_kv) continue;  // runs dense: it has no indices
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t set = h * plan.num_sets / heads;
      const int64_t x_head = h * x.shape[2] / heads;
      const int32_t* indices = keep.indices + (b * plan.num_sets + set) * keep.capacity;
      for (int64_t r = 0; r < keep.count[b]; ++r) {
        std::memcpy(to + row_offset(compacted, b, r, h) * element,
                    from + row_offset(x, b, indices[r], x_head) * element, x.shape[3] * element);
      }
    }
  }
  return {};
}

}  // namespace tokensieve::ref
