#include "ref/scatter.h"

#include <cstring>

#include "ref/elements.h"

namespace tokensieve::ref {

Status scatter(const Plan& plan, const TensorView& compacted, const KeepSet& keep,
               const TensorView& out, const RunOptions&) {
  const int64_t heads = out.shape[2];
  const size_t element = dtype_size(out.dtype);
  const size_t row_bytes = out.shape[3] * element;
  const auto* from = static_cast<const std::byte*>(compacted.data);
  auto* to = static_cast<std::byte*>(out.data);
  for (int64_t b = 0; b < plan.shape.batch; ++b) {
    if (keep.count[b] >= plan.shape.seqlen_kv) continue;  // ran dense: out is the caller's
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < out.shape[1]; ++i) {
        std::memset(to + row_offset(out, b, i, h) * element, 0, row_bytes);
      }
      const int64_t set = h * plan.num_sets / heads;
      const int32_t* indices = keep.indices + (b * plan.num_sets + set) * keep.capacity;
      for (int64_t r = 0; r < keep.count[b]; ++r) {
        std::memcpy(to + row_offset(out, b, indices[r], h) * element,
                    from + row_offset(compacted, b, r, h) * element, row_bytes);
      }
    }
  }
  return {};
}

}  // namespace tokensieve::ref
