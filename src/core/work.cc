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

int64_t first_row(const AttentionShape& s) { return s.seqlen_kv - s.seqlen_q; }

// Sinks and windows of the call's rows.
double local_pairs(const Plan& plan) {
  return local_pairs(plan.select, plan.shape.seqlen_kv) -
         local_pairs(plan.select, first_row(plan.shape));
}

// What far_pairs counts if `share` of the prefix is kept, evenly spread, and all of the suffix.
double expected_far_pairs(const Plan& plan, double share) {
  const SelectConfig& c = plan.select;
  const int64_t first = first_row(plan.shape);
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
  if (c.fill == Fill::kLocal) {
    return {.compact = expected_far_pairs(plan, share), .local = local_pairs(plan)};
  }
  const double before = share * static_cast<double>(std::min(first_row(s), plan.prefix_len));
  return {.compact = triangle(kept + static_cast<double>(plan.suffix_len())) - triangle(before)};
}

bool has_far_pairs(const SelectConfig& select) {
  return select.fill == Fill::kLocal && select.queries == Queries::kKept;
}

int64_t far_pairs(const Plan& plan, std::span<const int32_t> kept) {
  const auto from = [&](int64_t token) {
    return std::lower_bound(kept.begin(), kept.end(), token);
  };
  const auto sinks_end = from(plan.select.sinks);
  auto window = sinks_end;  // the first kept key that is not before the row's window
  int64_t pairs = 0;
  for (auto row = from(first_row(plan.shape)); row < kept.end(); ++row) {
    const int64_t begin = *row / kLocalBlock * kLocalBlock - plan.select.local_window;
    while (window < row && *window < begin) ++window;
    pairs += window - sinks_end;
  }
  return pairs;
}

double counted_pairs(const Plan& plan, int64_t keep, int64_t far_pairs_of_all_sets) {
  if (!has_far_pairs(plan.select)) return sparse_pairs(plan, keep).all();
  // One division, so that sets without a common divisor give the same bits however they are added.
  const double sets = plan.num_sets;
  return (sets * local_pairs(plan) + static_cast<double>(far_pairs_of_all_sets)) / sets;
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
