#include "cpu/layout.h"

#include <algorithm>

#include "core/plan.h"
#include "core/tiles.h"
#include "cpu/arena.h"
#include "cpu/estimate.h"
#include "cpu/tiles/tiles.h"

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

// The most columns of a head.
int64_t column_capacity(const Plan& plan) {
  if (plan.blocks.pattern != BlockPattern::kVerticalSlash) return 0;
  return vertical_slash_sizes(plan.blocks, nullptr, plan.shape.seqlen_kv).verticals;
}

// Newest rows that an estimator's probe has.
int64_t probe_rows(const Plan& plan) {
  switch (plan.blocks.pattern) {
    case BlockPattern::kFlex:
      return kBlock;
    case BlockPattern::kVerticalSlash:
      return kVerticalSlashProbe;
    default:
      return 0;
  }
}

PanelBuffers take_panels(Arena& arena, const Plan& plan) {
  const bool sparse = plan.path == Path::kSparse;
  const bool local = sparse && plan.select.fill == Fill::kLocal;
  const bool chunk = sparse && plan.select.queries == Queries::kAll;
  PanelBuffers buffers;
  // A sparse plan may find at run time that dense is right, so it always has room for it. Zero
  // fill and chunks use the two one after the other; local fill needs both at once.
  buffers.identity_keys = plan.shape.seqlen_kv;
  buffers.compact_keys = sparse ? plan.keep_capacity() : 0;
  const int64_t identity = packed_bytes(plan, buffers.identity_keys);
  const int64_t compact = packed_bytes(plan, buffers.compact_keys);
  const bool together = local && !chunk;
  const int64_t keys = together ? identity + compact : std::max(identity, compact);
  buffers.column_keys = round_up(column_capacity(plan), kPanelKeys);
  const int64_t group_columns = plan.shape.num_q_heads / plan.shape.num_kv_heads *
                                buffers.column_keys * plan.shape.head_dim * 2;
  const int64_t bytes = keys + group_columns * static_cast<int64_t>(sizeof(float));
  const int64_t groups =
      sparse ? std::max(plan.num_sets, plan.shape.num_kv_heads) : plan.shape.num_kv_heads;
  buffers.groups = std::clamp<int64_t>(kPhaseBytes / bytes, 1, groups);
  buffers.identity = arena.take<std::byte>(buffers.groups * keys);
  buffers.compact = buffers.identity;
  if (together && buffers.identity) buffers.compact += buffers.groups * identity;
  buffers.columns = arena.take<float>(buffers.groups * group_columns);
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

ScoreBuffers take_probe(Arena& arena, const Plan& plan, int cols, int64_t queries) {
  ScoreBuffers buffers = take_score(arena, plan, cols, queries);
  const int64_t blocks = divide_up(plan.shape.seqlen_kv, kBlockKeys);
  buffers.slash = arena.take<float>(buffers.units * blocks * (kBlockKeys + cols));
  return buffers;
}

TileBlocks tile_blocks(const Plan& plan) {
  // The lo of a bf16 is 0.
  const bool lo =
      plan.options.products == Products::kSplit && plan.shape.kv_dtype != DType::kBF16;
  return {.base = nullptr, .unfit = nullptr, .dims = tile_dims(plan.shape.head_dim), .lo = lo};
}

int64_t packed_bytes(const Plan& plan, int64_t keys) {
  if (plan.options.products != Products::kExact) return tile_blocks(plan).bytes(keys);
  return round_up(keys, kPanelKeys) * plan.shape.head_dim * 2 * static_cast<int64_t>(sizeof(float));
}

int64_t num_blocks(const Plan& plan) {
  return divide_up(plan.shape.seqlen_kv, kLocalBlock);
}

Layout make_layout(const Plan& plan, const Kernels& kernels, std::byte* base) {
  Arena arena(base);
  Layout layout = {};
  const bool on_tiles = plan.options.products != Products::kExact;
  const int64_t threads = plan.options.num_threads;
  layout.row_tiles = on_tiles ? kBundle : 1;
  layout.threads = arena.take<std::byte>(
      static_cast<int64_t>(scratch_bytes(plan.shape.head_dim)) * layout.row_tiles * threads);
  layout.tiles = arena.take<std::byte>(
      on_tiles ? static_cast<int64_t>(TileScratch::bytes(plan.shape.head_dim)) * threads : 0);
  if (plan.path == Path::kSparse) {
    layout.keep_capacity = plan.keep_capacity();
    layout.token_score = arena.take<float>(layer_heads(plan) * plan.prefix_len);
    if (base) layout.own_score = layout.token_score + first_head(plan) * plan.prefix_len;
    layout.indices = arena.take<int32_t>(plan.num_sets * layout.keep_capacity);
    layout.spans = arena.take<int32_t>(plan.num_sets * (num_blocks(plan) + 1));
  }
  layout.mask = arena.take<uint32_t>(plan.num_masks * plan.row_tiles * plan.mask_words);
  layout.failed = arena.take<uint32_t>(plan.num_masks);
  layout.columns.capacity = column_capacity(plan);
  if (layout.columns.capacity > 0) {
    const int64_t heads = plan.shape.num_q_heads;
    layout.columns.lists = arena.take<int32_t>(heads * layout.columns.capacity);
    layout.columns.count = arena.take<int32_t>(heads);
  }
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
    const int64_t rows =
        round_up(std::max<int64_t>(plan.select.obs_window, probe_rows(plan)), kernels.panel_cols);
    const int64_t queries = rows * plan.shape.num_q_heads * plan.shape.head_dim;
    most = std::max(most, phase + estimate + 2 * kPhaseBytes +
                              static_cast<size_t>(queries) * sizeof(float));
  }
  // The base may start up to kAlign - 1 bytes into the caller's buffer.
  layout.bytes = std::max(most, arena.used()) + (base ? 0 : Arena::kAlign);
  return layout;
}

ThreadScratch thread_scratch(const Layout& layout, int head_dim, int thread, int i) {
  const int64_t at = thread * layout.row_tiles + i;
  Arena arena(layout.threads + scratch_bytes(head_dim) * static_cast<size_t>(at));
  return take_scratch(arena, head_dim);
}

}  // namespace tokensieve::cpu
