#include "cpu/layout.h"

#include <algorithm>

#include "core/plan.h"
#include "cpu/arena.h"
#include "cpu/estimate.h"

namespace tokensieve::cpu {
namespace {

constexpr int kPadRows = kTileRows + kRowPadding;

ThreadScratch take_scratch(Arena& arena, int dim) {
  ThreadScratch scratch;
  float* s = arena.take<float>(int64_t{kPadRows} * kBlockKeys);
  for (Tile* tile : {&scratch.tile, &scratch.kept}) {
    tile->q = arena.take<float>(int64_t{kPadRows} * dim);
    tile->o = arena.take<float>(int64_t{kPadRows} * dim);
    tile->m = arena.take<float>(kPadRows);
    tile->l = arena.take<float>(kPadRows);
    tile->s = s;
    tile->rows = 0;
    tile->dim = dim;
  }
  scratch.row_end = arena.take<int32_t>(kTileRows);
  scratch.kept_row_end = arena.take<int32_t>(kTileRows);
  scratch.kept_rows = arena.take<int32_t>(kTileRows);
  return scratch;
}

size_t scratch_bytes(int dim) {
  Arena arena(nullptr);
  take_scratch(arena, dim);
  return arena.used();
}

PanelBuffers take_panels(Arena& arena, const Plan& plan) {
  const bool sparse = plan.path == Path::kSparse;
  const bool local = sparse && plan.select.fill == Fill::kLocal;
  const bool chunk = sparse && plan.select.queries == Queries::kAll;
  const int64_t all_keys = round_up(plan.shape.seqlen_kv, kPanelKeys);
  const int64_t kept = plan.keep_capacity();
  PanelBuffers buffers;
  // A sparse plan may find at run time that dense is right, so it always has room for it. Zero
  // fill and chunks use the two one after the other; local fill needs both at once.
  buffers.identity_keys = all_keys;
  buffers.compact_keys = sparse ? round_up(kept, kPanelKeys) : 0;
  const bool together = local && !chunk;
  const int64_t keys = together ? buffers.identity_keys + buffers.compact_keys
                                : std::max(buffers.identity_keys, buffers.compact_keys);
  const int64_t group_floats = keys * plan.shape.head_dim * 2;
  const int64_t bytes = group_floats * static_cast<int64_t>(sizeof(float));
  const int64_t groups =
      sparse ? std::max(plan.num_sets, plan.shape.num_kv_heads) : plan.shape.num_kv_heads;
  buffers.groups = std::clamp<int64_t>(kPhaseBytes / bytes, 1, groups);
  float* base = arena.take<float>(buffers.groups * group_floats);
  buffers.identity = base;
  buffers.compact =
      together && base ? base + buffers.groups * buffers.identity_keys * plan.shape.head_dim * 2
                       : base;
  return buffers;
}

}  // namespace

ScoreBuffers take_score(Arena& arena, const Plan& plan, int cols, int64_t queries) {
  // The microkernel writes whole row groups, which end with a panel.
  const int64_t keys = round_up(plan.shape.seqlen_kv, kPanelKeys);
  const int64_t blocks = divide_up(keys, kBlockKeys);
  const int64_t per_head = divide_up(queries, cols);
  const int64_t unit_bytes = keys * cols * static_cast<int64_t>(sizeof(float));
  const int64_t all = per_head * plan.shape.num_q_heads;
  int64_t units = std::clamp<int64_t>(kPhaseBytes / unit_bytes, 1, all);
  if (units > per_head) units = units / per_head * per_head;
  ScoreBuffers buffers = {};
  buffers.units = units;
  buffers.unit_keys = keys;
  buffers.qt = arena.take<float>(units * plan.shape.head_dim * cols);
  buffers.e = arena.take<float>(units * keys * cols);
  buffers.m = arena.take<float>(units * blocks * cols);
  buffers.l = arena.take<float>(units * blocks * cols);
  return buffers;
}

int64_t num_blocks(const Plan& plan) {
  return divide_up(plan.shape.seqlen_kv, kLocalBlock);
}

Layout make_layout(const Plan& plan, const Kernels& kernels, std::byte* base) {
  Arena arena(base);
  Layout layout = {};
  layout.threads = arena.take<std::byte>(
      static_cast<int64_t>(scratch_bytes(plan.shape.head_dim)) * plan.options.num_threads);
  if (plan.path == Path::kSparse) {
    layout.keep_capacity = plan.keep_capacity();
    layout.token_score = arena.take<float>(layer_heads(plan) * plan.prefix_len);
    if (base) layout.own_score = layout.token_score + first_head(plan) * plan.prefix_len;
    layout.indices = arena.take<int32_t>(plan.num_sets * layout.keep_capacity);
    layout.spans = arena.take<int32_t>(plan.num_sets * (num_blocks(plan) + 1));
  }
  layout.mask = arena.take<uint32_t>(plan.num_masks * plan.row_tiles * plan.mask_words);
  layout.failed = arena.take<uint32_t>(plan.num_masks);
  const size_t phase = arena.used();
  size_t most = phase;
  if (plan.path == Path::kSparse) {
    layout.score = take_score(arena, plan, kernels.panel_cols, plan.select.obs_window);
    most = std::max(most, arena.used());
    arena.rewind(phase);
    layout.select.pooled = arena.take<float>(layer_heads(plan) * plan.prefix_len);
    layout.select.mean = arena.take<double>(plan.prefix_len);
    layout.select.scratch =
        arena.take<float>(plan.options.num_threads * plan.prefix_len);
    most = std::max(most, arena.used());
    arena.rewind(phase);
  }
  const size_t estimate = estimate_bytes(plan, kernels);
  layout.estimate = arena.take<std::byte>(static_cast<int64_t>(estimate));
  most = std::max(most, arena.used());
  arena.rewind(phase);
  layout.panels = take_panels(arena, plan);
  if (plan.shape.packed) {
    // A shorter sequence may work on more heads at once than the longest: what kPhaseBytes hold of
    // panels or exponentials (with their maxima, sums and distances), and all queries.
    const int64_t probe = plan.blocks.pattern == BlockPattern::kFlex ? kBlock : 0;
    const int64_t rows =
        round_up(std::max<int64_t>(plan.select.obs_window, probe), kernels.panel_cols);
    const int64_t queries = rows * plan.shape.num_q_heads * plan.shape.head_dim;
    most = std::max(most, phase + estimate + 2 * kPhaseBytes +
                              static_cast<size_t>(queries) * sizeof(float));
  }
  // The base may start up to kAlign - 1 bytes into the caller's buffer.
  layout.bytes = std::max(most, arena.used()) + (base ? 0 : Arena::kAlign);
  return layout;
}

ThreadScratch thread_scratch(const Layout& layout, int head_dim, int thread) {
  Arena arena(layout.threads + scratch_bytes(head_dim) * static_cast<size_t>(thread));
  return take_scratch(arena, head_dim);
}

}  // namespace tokensieve::cpu
