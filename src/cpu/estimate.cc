#include "cpu/estimate.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>

#include "cpu/arena.h"

namespace tokensieve::cpu {

size_t estimate_bytes(const Plan& plan, const Kernels& kernels) {
  switch (plan.blocks.pattern) {
    case BlockPattern::kFlex:
      return flex_bytes(plan, kernels);
    case BlockPattern::kPooled:
      return pooled_bytes(plan);
    case BlockPattern::kAntidiagonal:
      return antidiagonal_bytes(plan, kernels);
    case BlockPattern::kVerticalSlash:
      return vertical_slash_bytes(plan, kernels);
    default:
      return 0;
  }
}

HeadRows head_rows(const Context& context, int64_t batch, int64_t keep, int64_t q_head) {
  const std::span<const int32_t> kept = context.kept_of(q_head, keep);
  return {.grid = tile_grid(context.plan, kept),
          .q = context.q_rows(batch, q_head, kept.data()),
          .k = context.k_rows(batch, q_head, kept.data())};
}

KeyGroups key_groups(const Plan& plan, int64_t keep) {
  const int32_t sets = keep < 0 ? 1 : plan.num_sets;
  return {std::max(sets, plan.shape.num_kv_heads), plan.shape.num_q_heads};
}

void mean_row(const Kernels& kernels, const Rows& rows, int64_t first, int64_t count, int dim,
              float scale, float* rows_scratch, float* mean) {
  std::fill_n(mean, dim, 0.0f);
  for (int64_t done = 0; done < count; done += kPanelKeys) {
    const int part = static_cast<int>(std::min<int64_t>(kPanelKeys, count - done));
    kernels.load_rows(rows, first + done, part, dim, scale, rows_scratch);
    for (int r = 0; r < part; ++r) {
      for (int d = 0; d < dim; ++d) mean[d] += rows_scratch[r * dim + d];
    }
  }
  for (int d = 0; d < dim; ++d) mean[d] /= static_cast<float>(count);
}

int64_t mean_tiles(const Plan& plan) { return tiles_of(plan.shape.seqlen_kv) + kRowPadding; }

void mean_keys(Context& context, int64_t batch, int64_t keep, float* means) {
  const KeyGroups groups = key_groups(context.plan, keep);
  const int dim = context.plan.shape.head_dim;
  const int64_t tiles = tiles_of(context.plan.shape.seqlen_kv);
  context.parallel(Stage::kEstimate, groups.count * tiles, [&](int64_t i, int thread) {
    const int64_t group = i / tiles, first = i % tiles * kBlock;
    const HeadRows head = head_rows(context, batch, keep, groups.first_head(group));
    if (first >= head.grid.keys) return;
    mean_row(context.kernels, head.k, first, std::min<int64_t>(kBlock, head.grid.keys - first), dim,
             1.0f, context.scratch(thread).tile.q,
             means + (group * mean_tiles(context.plan) + i % tiles) * dim);
  });
}

void fail(const Context& context, int64_t m) {
  std::atomic_ref<uint32_t>(context.layout.failed[m]).store(1, std::memory_order_relaxed);
}

int64_t fixed_point(float x) {
  return static_cast<int64_t>(static_cast<double>(x) * 0x1p48 + 0.5);  // x is never negative
}

int64_t fixed_sum(std::span<const float> values) {
  int64_t sum = 0;
  for (float value : values) sum += fixed_point(value);
  return sum;
}

int64_t share_of(int64_t total, double share) {
  return total - std::llround((1.0 - share) * static_cast<double>(total));
}

int64_t largest_within(std::span<float> values, int64_t mass) {
  float* begin = values.data();
  float* end = begin + values.size();
  while (begin != end) {
    // The larger half, with the middle, is within or not.
    float* middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, std::greater<float>());
    const int64_t half = fixed_sum({begin, middle + 1});
    if (half <= mass) {
      mass -= half;
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin - values.data();
}

}  // namespace tokensieve::cpu
