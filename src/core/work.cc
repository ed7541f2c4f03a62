#include "core/work.h"

#include <algorithm>

#include "core/budget.h"
#include "core/plan.h"

namespace tokensieve {
namespace {

double triangle(double n) { return n * (n + 1) / 2; }

// Rows see a window from ws(i) = max(0, 64 * (i / 64) - local_window) on: block b after those with
// ws = 0 begins its windows at 64 * b. The rows of a prompt before row n, cut into whole blocks
// with ws > 0 and the rest of the last one.
struct Blocks {
  double whole = 0;
  double rest = 0;

  Blocks(int64_t n, int64_t local_window) {
    const int64_t late = std::max<int64_t>(0, n - local_window - kLocalBlock);
    whole = static_cast<double>(late / kLocalBlock);
    rest = static_cast<double>(late % kLocalBlock);
  }
};

// Sinks and windows of rows [0, n): all keys up to the row where ws = 0.
double local_pairs(const SelectConfig& c, int64_t n) {
  const Blocks blocks(n, c.local_window);
  const double wide = static_cast<double>(c.local_window) + c.sinks;
  const double early = static_cast<double>(std::min<int64_t>(n, c.local_window + kLocalBlock));
  return triangle(early) + blocks.whole * (triangle(kLocalBlock) + kLocalBlock * wide) +
         triangle(blocks.rest) + blocks.rest * wide;
}

// Sum over rows [0, n) of max(0, ws(i) - begin): the keys in [begin, ws(i)).
double keys_before_window(const SelectConfig& c, int64_t n, int64_t begin) {
  const Blocks blocks(n, c.local_window);
  // Block b = 1, 2, ... has ws = 64 * b.
  const double first = static_cast<double>(begin / kLocalBlock);  // blocks with nothing
  const double count = std::max(0.0, blocks.whole - first);
  const double from = static_cast<double>(begin);
  const double sum =
      kLocalBlock * (triangle(blocks.whole) - triangle(std::min(first, blocks.whole)));
  const double last = kLocalBlock * (blocks.whole + 1) - from;
  return kLocalBlock * (sum - count * from) + blocks.rest * std::max(0.0, last);
}

// Rows of the call that are kept see the kept keys before their window; `share` of the prefix is
// kept, and all of the suffix.
double far_pairs(const Plan& plan, double share) {
  const SelectConfig& c = plan.select;
  const int64_t first = plan.shape.seqlen_kv - plan.shape.seqlen_q;
  const int64_t prefix = std::max(plan.prefix_len, first);
  const auto before = [&](int64_t n) { return keys_before_window(c, n, c.sinks); };
  const double in_prefix = share * share * (before(prefix) - before(first));
  const double in_suffix = share * (before(plan.shape.seqlen_kv) - before(prefix));
  // Windows shorter than obs_window: keys of the suffix before them are all kept.
  const double newest =
      (1 - share) *
      keys_before_window(c, plan.shape.seqlen_kv, std::max<int64_t>(plan.prefix_len, c.sinks));
  return in_prefix + in_suffix + newest;
}

}  // namespace

double dense_pairs(const AttentionShape& s) {
  const double q = static_cast<double>(s.seqlen_q);
  const double kv = static_cast<double>(s.seqlen_kv);
  return s.causal ? q * (kv - q) + triangle(q) : q * kv;
}

SparsePairs sparse_pairs(const Plan& plan, int64_t keep) {
  const AttentionShape& s = plan.shape;
  const SelectConfig& c = plan.select;
  const double q = static_cast<double>(s.seqlen_q);
  const double prefix = static_cast<double>(plan.prefix_len);
  const double kept = static_cast<double>(keep);
  if (c.queries == Queries::kAll) {
    // Chunk rows see the kept past and the chunk; the last obs_window rows see everything.
    return {.compact = q * kept + triangle(q) + c.obs_window * (prefix - kept)};
  }
  const double share = kept / prefix;
  const int64_t first = s.seqlen_kv - s.seqlen_q;
  if (c.fill == Fill::kLocal) {
    return {.compact = far_pairs(plan, share),
            .local = local_pairs(c, s.seqlen_kv) - local_pairs(c, first)};
  }
  const double before = share * static_cast<double>(std::min(first, plan.prefix_len));
  return {.compact = triangle(kept + static_cast<double>(plan.suffix_len())) - triangle(before)};
}

int64_t Plan::suffix_len() const { return shape.seqlen_kv - prefix_len; }

int64_t Plan::keep_capacity() const {
  return path == Path::kSparse ? max_keep + suffix_of(select, shape.seqlen_q) : suffix_len();
}

double work_of(const Plan& plan, int64_t keep) {
  if (plan.path == Path::kDense || keep >= plan.prefix_len) return 1.0;
  return sparse_pairs(plan, std::max<int64_t>(0, keep)).all() / dense_pairs(plan.shape);
}

int64_t planned_keep(const Plan& plan) {
  if (plan.path == Path::kDense) return plan.prefix_len;
  if (plan.select.budget == BudgetPolicy::kTau) return -1;
  return keep_count(plan.select, plan.prefix_len, /*drop=*/0);
}

}  // namespace tokensieve
