#include "ref/select.h"

#include <algorithm>
#include <numeric>

#include "core/plan.h"
#include "ref/budget.h"

namespace tokensieve::ref {

std::vector<std::vector<int32_t>> select(const Plan& plan, std::span<const double> pooled,
                                         int64_t keep) {
  const auto [first, heads_per_set] = set_heads(plan);
  const Arithmetic arithmetic = plan.select.arithmetic;
  std::vector<std::vector<int32_t>> sets;
  for (int64_t set = 0; set < plan.num_sets; ++set) {
    std::vector<double> rank =
        mean_of_rows(pooled, plan.prefix_len, first + set * heads_per_set, heads_per_set,
                     arithmetic);
    // A head's own normalisation changes the order of its tokens only where it rounds.
    if (plan.select.share == Share::kHead) rank = normalise(rank, arithmetic);

    std::vector<int32_t> order(static_cast<size_t>(plan.prefix_len));
    std::iota(order.begin(), order.end(), 0);
    const auto unprotected = order.begin() + std::min<int64_t>(plan.select.protect_first, keep);
    std::stable_sort(unprotected, order.end(),
                     [&](int32_t a, int32_t b) { return rank[a] > rank[b]; });

    std::vector<int32_t> kept(order.begin(), order.begin() + keep);
    std::sort(kept.begin(), kept.end());
    for (int64_t j = plan.prefix_len; j < plan.shape.seqlen_kv; ++j) {
      kept.push_back(static_cast<int32_t>(j));
    }
    sets.push_back(std::move(kept));
  }
  return sets;
}

}  // namespace tokensieve::ref
