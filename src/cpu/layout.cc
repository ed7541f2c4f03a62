#include "cpu/layout.h"

#include <algorithm>

#include "core/plan.h"

namespace tokensieve::cpu {
namespace {

// Panels and exponentials of several heads are held at once while they fit: fewer phases, and
// still within a last-level cache.
constexpr int64_t kPhaseBytes = int64_t{16} << 20;

constexpr int kPadRows = kTileRows + kRowPadding;

// Hands out 64-byte aligned arrays of a buffer; with a null base it only measures.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {
    if (base != nullptr) used_ = (kAlign - reinterpret_cast<uintptr_t>(base) % kAlign) % kAlign;
  }

  template <typename T>
  T* take(int64_t count) {
    T* at = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return at;
  }
  size_t used() const { return used_; }
  void rewind(size_t used) { used_ = used; }

  static constexpr size_t kAlign = 64;

 private:
  std::byte* base_;
  size_t used_ = 0;
};

int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

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

ScoreBuffers take_score(Arena& arena, const Plan& plan, int cols) {
  // The microkernel writes whole row groups, which end with a panel.
  const int64_t keys = round_up(plan.shape.seqlen_kv, kPanelKeys);
  const int64_t blocks = round_up(keys, kBlockKeys) / kBlockKeys;
  const int64_t per_head = query_blocks(plan, cols);
  const int64_t unit_bytes = keys * cols * static_cast<int64_t>(sizeof(float));
  const int64_t all = per_head * plan.shape.num_q_heads;
  int64_t units = std::clamp<int64_t>(kPhaseBytes / unit_bytes, 1, all);
  if (units > per_head) units = units / per_head * per_head;
  ScoreBuffers buffers;
  buffers.units = units;
  buffers.unit_keys = keys;
  buffers.qt = arena.take<float>(units * plan.shape.head_dim * cols);
  buffers.e = arena.take<float>(units * keys * cols);
  buffers.m = arena.take<float>(units * blocks * cols);
  buffers.l = arena.take<float>(units * blocks * cols);
  return buffers;
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

int64_t query_blocks(const Plan& plan, int panel_cols) {
  return round_up(plan.select.obs_window, panel_cols) / panel_cols;
}

int64_t num_blocks(const Plan& plan) {
  return round_up(plan.shape.seqlen_kv, kLocalBlock) / kLocalBlock;
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
  const size_t phase = arena.used();
  size_t most = phase;
  if (plan.path == Path::kSparse) {
    layout.score = take_score(arena, plan, kernels.panel_cols);
    most = std::max(most, arena.used());
    arena.rewind(phase);
    layout.select.pooled = arena.take<float>(layer_heads(plan) * plan.prefix_len);
    layout.select.mean = arena.take<double>(plan.prefix_len);
    layout.select.scratch =
        arena.take<float>(plan.options.num_threads * plan.prefix_len);
    most = std::max(most, arena.used());
    arena.rewind(phase);
  }
  layout.panels = take_panels(arena, plan);
  if (plan.shape.packed) {
    // A shorter sequence may work on more heads at once than the longest: what kPhaseBytes hold of
    // panels or exponentials (with their maxima and sums), and all queries.
    const int64_t queries = query_blocks(plan, kernels.panel_cols) * kernels.panel_cols *
                            plan.shape.num_q_heads * plan.shape.head_dim;
    most = std::max(most, phase + 2 * kPhaseBytes + static_cast<size_t>(queries) * sizeof(float));
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
