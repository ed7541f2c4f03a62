#include "cuda/layout.h"

#include <algorithm>

#include "core/plan.h"
#include "core/work.h"
#include "cuda/arena.h"
#include "cuda/blocks/plan.h"
#include "cuda/select/select.h"

namespace tokensieve::cuda {
namespace {

constexpr int64_t round_up(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// Key ranges that score works on: together with the kv heads a CTA for every multiprocessor.
int32_t score_splits(int64_t rows, int64_t seqlen_kv, int num_multiprocessors) {
  const int64_t tiles = (seqlen_kv + kTileKv - 1) / kTileKv;
  const int64_t splits = rows < num_multiprocessors ? num_multiprocessors / rows : 1;
  return static_cast<int32_t>(std::min(splits, tiles));
}

// What score and select work on, inside `from` onwards. Returns where it ends.
uintptr_t lay_out_scores(const Plan& plan, uintptr_t from, Layout& layout) {
  const AttentionShape& s = plan.shape;
  Arena arena(from);
  layout.token_score = arena.take<float>(s.batch * layer_heads(plan) * layout.prefix_stride);
  layout.ranked = arena.take<float>(s.batch * plan.num_sets * layout.prefix_stride);
  layout.mean = arena.take<float>(s.batch * layout.prefix_stride);
  layout.split_stats =
      arena.take<float2>(layout.splits * s.batch * s.num_q_heads * plan.select.obs_window);
  layout.select_scratch =
      arena.take<char>(static_cast<int64_t>(select_scratch_bytes(select_params(plan))));
  return arena.end();
}

// The largest share of a prefix that runs sparse.
double keep_limit(const Plan& plan) {
  // Shorter packed sequences keep a larger share where min_keep or keep_count is what counts.
  const SelectConfig& c = plan.select;
  if (plan.shape.packed && c.dense_policy == DensePolicy::kNever && c.min_drop == 0.0) return 1.0;
  // Half a token more, so that rounding down gives max_keep exactly.
  return (static_cast<double>(plan.max_keep) + 0.5) / static_cast<double>(plan.prefix_len);
}

}  // namespace

bool keeps_lengths(const Plan& plan) {
  return plan.shape.packed && (plan.path == Path::kSparse || has_blocks(plan));
}

Heads heads_of(const Plan& plan) { return {plan.shape.num_q_heads, plan.shape.num_kv_heads}; }

Sequences sequences_of(const Plan& plan, const AttentionInputs& inputs) {
  const AttentionShape& s = plan.shape;
  return {.batch = static_cast<int32_t>(s.batch),
          .seqlen_q = static_cast<int32_t>(s.seqlen_q),
          .seqlen_kv = static_cast<int32_t>(s.seqlen_kv),
          .kv_rows = static_cast<int32_t>(inputs.k.shape[1]),
          .cu_seqlens_q = inputs.cu_seqlens_q,
          .cu_seqlens_kv = inputs.cu_seqlens_kv};
}

int32_t suffix_param(const Plan& plan) {
  return plan.select.queries == Queries::kAll ? kChunkSuffix : plan.select.obs_window;
}

SelectParams select_params(const Plan& plan) {
  const SelectConfig& c = plan.select;
  const SetHeads set = set_heads(plan);
  return {.sequences = sequences_of(plan, {}),
          .layer_heads = static_cast<int32_t>(layer_heads(plan)),
          .first_head = static_cast<int32_t>(set.first),
          .heads_per_set = static_cast<int32_t>(set.heads_per_set),
          .longest_prefix = static_cast<int32_t>(plan.prefix_len),
          .suffix = suffix_param(plan),
          .min_queries = c.obs_window,
          .whole_only = c.queries == Queries::kKept && c.fill == Fill::kZero,
          .rule = {.budget = c.budget,
                   .keep_ratio = c.keep_ratio,
                   .keep_count = c.keep_count,
                   .min_keep = c.min_keep,
                   .protect_first = c.protect_first,
                   .keep_limit = keep_limit(plan)},
          .tau = c.tau,
          .pool_width = c.pool_width,
          .arithmetic = c.arithmetic,
          .selection = {.num_sets = plan.num_sets}};
}

Selection own_selection(const Plan& plan, const Layout& layout) {
  return {.indices = layout.indices,
          .mask = layout.mask,
          .rank = layout.rank,
          .count = layout.count,
          .num_sets = plan.num_sets,
          .capacity = layout.capacity,
          .words = layout.words};
}

Layout make_layout(const Plan& plan, int num_multiprocessors, void* memory) {
  const AttentionShape& s = plan.shape;
  Layout layout;
  const uintptr_t base = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (base + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
  Arena arena(begin);
  layout.tile_counters = arena.take<int32_t>(kTileCounters);
  layout.count = arena.take<int32_t>(s.batch);
  if (s.packed) layout.cu_seqlens = arena.take<int32_t>(2 * (s.batch + 1));
  if (has_blocks(plan)) {
    layout.block_visits = arena.take<int2>(s.batch * s.num_q_heads * plan.row_tiles);
    if (plan.blocks.pattern != BlockPattern::kGiven) {
      layout.block_bits =
          arena.take<uint32_t>(s.batch * plan.num_masks * plan.row_tiles * plan.mask_words);
    }
    if (estimates(plan)) {
      layout.unmasked = arena.take<int32_t>(s.batch);
      layout.estimate = lay_out_estimate(plan, num_multiprocessors, arena);
    }
  }
  if (plan.path == Path::kSparse) {
    layout.capacity =
        static_cast<int32_t>(round_up(plan.keep_capacity(), kTileKv));
    layout.words = static_cast<int32_t>((s.seqlen_kv + 31) / 32);
    layout.compact_heads = std::max(plan.num_sets, s.num_kv_heads);
    layout.prefix_stride = round_up(plan.prefix_len, 64);
    // As one device would split the keys of all ranks' heads: then scores have its bits.
    layout.splits = score_splits(s.batch * s.num_kv_heads * plan.options.num_ranks, s.seqlen_kv,
                                 num_multiprocessors);
    const int64_t sets = s.batch * plan.num_sets;
    layout.indices = arena.take<int32_t>(sets * layout.capacity);
    layout.mask = arena.take<uint32_t>(sets * layout.words);
    layout.rank = arena.take<uint32_t>(sets * layout.words);
    if (has_far_pairs(plan.select)) {
      layout.far_pairs = arena.take<int64_t>(sets);
      layout.lse = arena.take<float>(s.batch * s.num_q_heads * s.seqlen_q);
    }
    const int64_t elements = s.batch * layout.compact_heads * layout.capacity * s.head_dim;
    layout.compact_k = arena.take<uint16_t>(elements, kArenaAlignment);
    const uintptr_t scores_end =
        lay_out_scores(plan, reinterpret_cast<uintptr_t>(layout.compact_k), layout);
    layout.compact_v = arena.take<uint16_t>(elements, kArenaAlignment);
    layout.bytes = std::max(arena.end(), scores_end) - begin + kArenaAlignment;
  } else {
    layout.bytes = arena.end() - begin + kArenaAlignment;
  }
  return layout;
}

Status lay_out(const Plan& plan, int num_multiprocessors, std::span<std::byte> workspace,
               Layout& layout) {
  layout = make_layout(plan, num_multiprocessors, workspace.data());
  if (layout.bytes <= plan.workspace) return {};
  return Status::error(StatusCode::kInvalidArgument,
                       "the plan was made with another device current (its workspace is %zu bytes, "
                       "this one needs %zu); make a plan for every kind of device",
                       plan.workspace, layout.bytes);
}

}  // namespace tokensieve::cuda
