// Stage scatter by itself: puts computed rows back; every other row becomes zero.
#include <cstring>

#include "cpu/kept_rows.h"

namespace tokensieve::cpu {

Status scatter(const Plan& plan, const TensorView& compacted, const KeepSet& keep,
               const TensorView& out, const RunOptions& options) {
  const size_t bytes = static_cast<size_t>(plan.shape.head_dim) * dtype_size(out.dtype);
  for_heads(plan, out, compacted, keep, options,
            [&](int64_t b, int64_t head, int64_t target, const int32_t* list, int64_t count) {
              int64_t r = 0;
              for (int64_t row = 0; row < plan.shape.seqlen_kv; ++row) {
                char* to = row_at(out, b, row, target);
                if (r < count && list[r] == row) {
                  std::memcpy(to, row_at(compacted, b, r++, head), bytes);
                } else {
                  std::memset(to, 0, bytes);
                }
              }
            });
  return {};
}

}  // namespace tokensieve::cpu
