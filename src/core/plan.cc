#include "core/plan.h"

#include <algorithm>
#include <cmath>

#include "core/backend_table.h"
#include "core/budget.h"
#include "core/packed.h"
#include "core/tiles.h"
#include "core/validate.h"
#include "core/work.h"
#include "tokensieve/names.h"

namespace tokensieve {
namespace {

// Sparse must be predicted at least this much cheaper: the model's own error, measured.
constexpr double kSafety = 0.95;

double predicted_sparse_cost(const Plan& plan, int64_t keep) {
  const AttentionShape& s = plan.shape;
  const CostModel& cost = cost_model(plan.options);
  const double sets_per_head = static_cast<double>(std::max(plan.num_sets, s.num_kv_heads)) /
                               static_cast<double>(s.num_q_heads);
  const double kept = static_cast<double>(keep + plan.suffix_len());
  const SparsePairs pairs = sparse_pairs(plan, keep);
  const double score = static_cast<double>(plan.select.obs_window) * s.seqlen_kv * cost.score_pair;
  return score + kept * sets_per_head * cost.gather_row +
         pairs.compact * cost.sparse_pair + pairs.local * cost.local_pair + cost.fixed +
         cost.call * 128.0 / s.head_dim / static_cast<double>(s.batch * layer_heads(plan));
}

// The reason to run every call of this plan dense, or kNone.
DenseReason dense_at_plan_time(const Plan& plan) {
  const AttentionShape& s = plan.shape;
  const SelectConfig& c = plan.select;
  if (!c.enabled || (c.budget == BudgetPolicy::kTau && c.tau == 0.0)) {
    return DenseReason::kDisabled;
  }
  if (!s.causal) return DenseReason::kNotSparsifiable;
  if (s.seqlen_q < c.obs_window) return DenseReason::kFewQueries;
  if (plan.prefix_len <= c.min_keep) return DenseReason::kShortPrompt;
  // The fewest tokens that the budget could keep: the tau budget is known only at run time.
  const int64_t drop = c.budget == BudgetPolicy::kTau ? plan.prefix_len : 0;
  return dense_after_budget(plan, keep_count(c, plan.prefix_len, drop));
}

// Sequences of a packed plan differ in what follows their prefix if that is the chunk. The plan is
// made for the one that gains most, whose chunk is as long as what lies before it.
Plan best_sequence(const Plan& plan) {
  Plan one = plan;
  if (!plan.shape.packed || plan.select.queries == Queries::kKept) return one;
  const int64_t q = plan.shape.seqlen_q;
  one.shape.seqlen_q = std::clamp(plan.shape.seqlen_kv / 2,
                                  std::min<int64_t>(q, plan.select.obs_window), q);
  one.prefix_len = plan.shape.seqlen_kv - one.shape.seqlen_q;
  return one;
}

// What Products::kAuto means.
constexpr Products kDefaultProducts = Products::kExact;

// Resolves isa and products, and checks that these are the ones that are insisted on.
Status resolve(const BackendOps& ops, Plan& plan) {
  const PlanOptions asked = plan.options;
  Products& products = plan.options.products;
  if (products == Products::kAuto) products = kDefaultProducts;
  if (ops.resolve != nullptr) {
    TOKENSIEVE_RETURN_IF_ERROR(ops.resolve(plan));
  } else if (products != Products::kExact) {
    products = Products::kExact;
    plan.products_reason = ProductsReason::kBackend;
  }
  if (!asked.require_products || asked.products == Products::kAuto || asked.products == products) {
    return {};
  }
  return Status::error(StatusCode::kUnsupported,
                       "products = %s is not to be had here: %s; use %s, or do without "
                       "require_products",
                       name_of(asked.products), products_reason_text(plan.products_reason),
                       name_of(products));
}

// The most prefix tokens of a sequence that runs sparse.
int64_t most_kept(const Plan& plan, const Plan& best, const BackendOps& ops) {
  if (plan.select.budget != BudgetPolicy::kTau) return keep_count(plan.select, plan.prefix_len, 0);
  // Packed sequences that run one by one have a limit each.
  if (plan.shape.packed && !ops.packed) return plan.prefix_len;
  // What the budget keeps at least runs sparse, or the path would be dense.
  const int64_t least = keep_count(best.select, best.prefix_len, best.prefix_len);
  const int64_t most = max_sparse_keep(best, least, best.prefix_len);
  if (best.prefix_len == plan.prefix_len) return most;
  return static_cast<int64_t>(static_cast<double>(most) / static_cast<double>(best.prefix_len) *
                              static_cast<double>(plan.prefix_len));
}

}  // namespace

SetHeads set_heads(const Plan& plan) {
  if (plan.select.share == Share::kLayer) return {0, layer_heads(plan)};
  return {first_head(plan), plan.shape.num_q_heads / plan.num_sets};
}

DenseReason dense_after_budget(const Plan& plan, int64_t keep) {
  const SelectConfig& c = plan.select;
  const int64_t dropped = plan.prefix_len - keep;
  if (dropped <= 0 || static_cast<double>(dropped) < c.min_drop * plan.prefix_len) {
    return DenseReason::kNothingToDrop;
  }
  if (c.dense_policy == DensePolicy::kBreakEven &&
      predicted_sparse_cost(plan, keep) > kSafety * dense_pairs(plan.shape)) {
    return DenseReason::kBreakEven;
  }
  return DenseReason::kNone;
}

int64_t max_sparse_keep(const Plan& plan, int64_t least, int64_t most) {
  // The predicted cost grows with keep, so the answers are kNone up to some keep, then dense.
  while (least < most) {
    const int64_t middle = most - (most - least) / 2;
    if (dense_after_budget(plan, middle) == DenseReason::kNone) {
      least = middle;
    } else {
      most = middle - 1;
    }
  }
  return least;
}

// CPU: fitted to one-thread times of dense, zero and local layers at 1K-8K tokens, 9/3 heads, on
// Zen4 (docs/performance.md, "Break-even"); predicted and measured differ by at most 4 % there.
// The unit is a dense pair: 2.6 ns at head_dim 64, 5.1 ns at 128.
//   score_pair: half of a pair's products (Q K^T, no P V) and one exponential: 1.85 ns.
//   gather_row: 58 ns to pack a row of K and V.
//   sparse_pair, local_pair: ragged tiles, window edges.
//   fixed: 50 us a head for select and the phases.
//
// CPU on matrix tiles: a dense pair takes a 2.6th (split) or a 4.5th (bf16) of its time in f32;
// score, rows and the rest stay f32. Windows and tiles of few keys cost 1.7 times as much a pair as
// dense attention does. From layers of 8K tokens, 9/3 heads, head_dim 64, on a Xeon
// (docs/kernels/cpu-tiles.md).
//
// CUDA: from bench/side_by_side.py on an H200, 32/8 heads, head_dim 128, 512 to 131072 tokens
// (docs/kernels/cuda.md). The unit is 0.82 ps, a dense pair at 630 TFLOP/s; what moves or computes
// head_dim elements scales with it.
//   score_pair: two passes of half a pair's products each, two exponentials, then pooling and
//     select: 5.0 ns a token for 128 queries of 32 heads, 1.22 ps.
//   gather_row: 0.21 ns a row of K and V.
//   sparse_pair: no group reuse of K and V, ragged tiles.
//   local_pair: windows are a few tiles of 128 keys, of which edges and prologue are a large part.
//   call: 30 us of launches and latency that do not grow with length or heads.
const CostModel& cost_model(const PlanOptions& options) {
  static constexpr CostModel kCpu = {0.7, 24.0, 1.05, 1.05, 20000.0, 0.0};
  static constexpr CostModel kCpuSplit = {1.8, 94.0, 1.7, 1.7, 52000.0, 0.0};
  static constexpr CostModel kCpuBf16 = {3.2, 150.0, 1.7, 1.7, 90000.0, 0.0};
  static constexpr CostModel kRef = {1.0, 1.0, 1.0, 1.0, 0.0, 0.0};
  static constexpr CostModel kCuda = {1.5, 250.0, 1.05, 1.8, 0.0, 3.6e7};
  switch (options.backend) {
    case Backend::kRef:
      return kRef;
    case Backend::kCuda:
      return kCuda;
    default:
      return options.products == Products::kSplit  ? kCpuSplit
             : options.products == Products::kBf16 ? kCpuBf16
                                                   : kCpu;
  }
}

namespace {

// What an estimator costs per head, in pairs of stage score, for `pairs` dense ones. CPU, one
// thread of Zen4, 8K tokens, 9/3 heads, head_dim 64, where a dense pair takes 2.4 ns: flex 3.3 ms a
// head, pooled .7 ms, antidiagonal 2.9 ms at stride 16 and 4.8 ms at 8. The probe of
// vertical_slash is half of flex's.
double estimate_pairs(const BlockConfig& blocks, double keys, double pairs) {
  switch (blocks.pattern) {
    case BlockPattern::kFlex:  // the probe's rows, also along diagonals, and at most a map of tiles
      return 1.9 * kBlock * keys + pairs / (kBlock * kBlock);
    case BlockPattern::kVerticalSlash:
      return 1.9 * kVerticalSlashProbe * keys;
    case BlockPattern::kPooled:  // a mean key a tile
      return 1.6 * pairs / kBlock;
    case BlockPattern::kAntidiagonal:  // half a dense pair's products for stride pairs
      return 1.5 * pairs / (2.0 * blocks.stride);
    default:
      return 0.0;
  }
}

// The least density to hope for: what good estimators visit at their published settings on long
// prompts.
constexpr double kGoodDensity = 0.25;

// Key tiles that a pattern's row tile visits at least, if it has so many.
int64_t forced_tiles(const BlockConfig& blocks, double keys) {
  switch (blocks.pattern) {
    case BlockPattern::kFlex:
      return std::max<int64_t>(1, tiles_of(blocks.min_budget));
    case BlockPattern::kPooled:
      return int64_t{blocks.sink_tiles} + blocks.window_tiles;
    case BlockPattern::kVerticalSlash:  // were its distances the nearest
      return tiles_of(
          vertical_slash_sizes(blocks, nullptr, static_cast<int64_t>(keys)).slashes + kBlock - 1);
    default:
      return 2;
  }
}

// What these are of all, for rows that are the last of the keys.
double forced_density(const BlockConfig& blocks, double rows, double keys) {
  const double row_tiles = std::ceil(rows / kBlock);
  const double fewest = std::ceil(keys / kBlock) - row_tiles + 1;  // key tiles of row tile 0
  const auto forced = static_cast<double>(forced_tiles(blocks, keys));
  const double shorter = std::clamp(forced - fewest, 0.0, row_tiles);
  const auto first = [&](double count) { return count * fewest + count * (count - 1) / 2; };
  return (first(shorter) + (row_tiles - shorter) * forced) / first(row_tiles);
}

// Whether an estimated mask can make a call cheaper. Masks that come from outside are what the
// caller means, whatever they cost.
bool blocks_can_win(const Plan& plan) {
  const BlockPattern pattern = plan.blocks.pattern;
  if (pattern == BlockPattern::kGiven || pattern == BlockPattern::kScores) return true;
  if (plan.select.dense_policy == DensePolicy::kNever) return true;
  const AttentionShape& s = plan.shape;
  const double keys =
      static_cast<double>(plan.path == Path::kSparse ? plan.keep_capacity() : s.seqlen_kv);
  const double rows = std::min(static_cast<double>(s.seqlen_q), keys);
  const double pairs = rows * (keys - rows / 2);
  const double cost =
      cost_model(plan.options).score_pair * estimate_pairs(plan.blocks, keys, pairs);
  const double density = std::max(kGoodDensity, forced_density(plan.blocks, rows, keys));
  return cost + density * pairs < kSafety * pairs;
}

Status check_pattern(const BlockConfig& blocks, const BackendOps& ops) {
  if (blocks.pattern != BlockPattern::kVerticalSlash || ops.vertical_slash) return {};
  return Status::error(StatusCode::kUnsupported,
                       "backend %s has no %s, which visits single columns; use flex, its form in "
                       "whole tiles, or backend cpu",
                       backend_name(ops.id), name_of(blocks.pattern));
}

// Sets or masks of a sequence.
int32_t count_of(Share share, const AttentionShape& s) {
  return share == Share::kHead ? s.num_q_heads : share == Share::kKv ? s.num_kv_heads : 1;
}

// Resolves what a mask must hold, or that there is none.
void plan_blocks(Plan& plan) {
  const BlockPattern pattern = plan.blocks.pattern;
  if (pattern == BlockPattern::kNone) return;
  if (pattern == BlockPattern::kFlex || pattern == BlockPattern::kAntidiagonal ||
      pattern == BlockPattern::kVerticalSlash) {
    plan.blocks.share = Share::kHead;
  }
  if (!blocks_can_win(plan)) {
    plan.blocks.pattern = BlockPattern::kNone;
    return;
  }
  plan.num_masks = count_of(plan.blocks.share, plan.shape);
  plan.row_tiles = tiles_of(plan.shape.seqlen_q);
  plan.mask_words = mask_words_of(tiles_of(plan.shape.seqlen_kv));
}

}  // namespace

Result<Plan> make_plan(const AttentionShape& shape, const SelectConfig& select,
                       const PlanOptions& options) {
  return make_plan(shape, select, BlockConfig{}, options);
}

Result<Plan> make_plan(const AttentionShape& shape, const SelectConfig& select,
                       const BlockConfig& blocks, const PlanOptions& options) {
  TOKENSIEVE_RETURN_IF_ERROR(validate_shape(shape));
  TOKENSIEVE_RETURN_IF_ERROR(validate_select(select));
  TOKENSIEVE_RETURN_IF_ERROR(validate_queries(shape, select));
  TOKENSIEVE_RETURN_IF_ERROR(validate_options(shape, options));
  TOKENSIEVE_RETURN_IF_ERROR(validate_blocks(shape, select, blocks, options));

  Plan plan;
  plan.shape = shape;
  plan.select = select;
  plan.blocks = blocks;
  plan.options = options;
  if (plan.options.backend == Backend::kAuto) plan.options.backend = Backend::kCpu;
  if (plan.shape.sm_scale == 0.0f) {
    plan.shape.sm_scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  }
  const BackendOps* ops = backend_ops(plan.options.backend);
  if (ops == nullptr) {
    return Status::error(StatusCode::kUnsupported,
                         "backend %s is not in this build; use %s, or rebuild with it",
                         backend_name(options.backend),
                         backend_compiled(Backend::kCpu) ? "cpu" : "ref");
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_pattern(blocks, *ops));
  TOKENSIEVE_RETURN_IF_ERROR(resolve(*ops, plan));
  if (select.queries == Queries::kAll && select.fill == Fill::kLocal) {
    plan.select.protect_first = std::max(select.protect_first, select.sinks);
  }

  plan.prefix_len =
      shape.seqlen_kv - (shape.packed ? select.obs_window : suffix_of(select, shape.seqlen_q));
  plan.num_sets = count_of(select.share, shape);
  const Plan best = best_sequence(plan);
  plan.reason = dense_at_plan_time(best);
  plan.path = plan.reason == DenseReason::kNone ? Path::kSparse : Path::kDense;
  if (plan.path == Path::kDense) {
    plan.prefix_len = 0;
    plan.num_sets = 0;
  } else {
    plan.max_keep = most_kept(plan, best, *ops);
  }
  plan_blocks(plan);
  TOKENSIEVE_RETURN_IF_ERROR(ops->prepare(plan));
  if (plan.shape.packed && !ops->packed) plan.workspace += packed_scratch_bytes(plan.shape);
  return plan;
}

size_t workspace_bytes(const Plan& plan) { return plan.workspace; }

}  // namespace tokensieve
