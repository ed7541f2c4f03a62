#include "cpu/attend.h"

#include <cmath>
#include <cstring>
#include <utility>

namespace tokensieve::cpu {

PanelGroup Attender::group(const Pass& pass, int64_t slot) const {
  const int32_t g = static_cast<int32_t>(pass.first + slot);
  const int32_t size = static_cast<int32_t>(group_size_);
  if (pass.sets && c_.plan.num_sets > shape().num_kv_heads) return {g / size, g, g, 1};
  const int32_t set = c_.plan.num_sets > 1 ? g : 0;
  return {g, set, g * size, size};
}

Panels Attender::panels(const PanelGroup& group, int64_t slot, const int32_t* list,
                        std::byte* base, int64_t keys) const {
  base += slot * packed_bytes(c_.plan, keys);
  Panels panels = {.k_rows = c_.rows(c_.in.k, batch_, group.kv_head),
                   .v_rows = c_.rows(c_.in.v, batch_, group.kv_head),
                   .kt = reinterpret_cast<float*>(base),
                   .v = reinterpret_cast<float*>(base) + round_up(keys, kPanelKeys) * dim(),
                   .columns = c_.layout.panels.columns + slot * group_size_ * column_floats(),
                   .blocks = tile_blocks(c_.plan)};
  panels.k_rows.indices = panels.v_rows.indices = list;
  panels.k_rows.cells = panels.v_rows.cells = cells_;
  panels.blocks.place(base, keys);
  return panels;
}

Panels Attender::identity(const PanelGroup& group, int64_t slot) const {
  const PanelBuffers& buffers = c_.layout.panels;
  return panels(group, slot, nullptr, buffers.identity, buffers.identity_keys);
}

Panels Attender::compacted(const PanelGroup& group, int64_t slot) const {
  const PanelBuffers& buffers = c_.layout.panels;
  return panels(group, slot, indices(group.set), buffers.compact, buffers.compact_keys);
}

template <typename F>
void Attender::pack(const Pass& pass, KeyRange skip, int64_t keys, bool steered, F&& target) {
  constexpr int64_t kPanelsPerTask = 8;
  const int64_t skip_begin = divide_up(skip.begin, kPanelKeys);
  const int64_t skipped = std::max<int64_t>(0, skip.end / kPanelKeys - skip_begin);
  const int64_t num_panels = divide_up(keys, kPanelKeys) - skipped;
  const int64_t tasks = divide_up(num_panels, kPanelsPerTask);
  c_.parallel(Stage::kCompact, pass.count * tasks, [&](int64_t i, int) {
    const int64_t slot = i / tasks;
    const PanelGroup g = group(pass, slot);
    const Panels panels = target(g, slot);
    const int32_t* list = panels.k_rows.indices;
    const std::span<const int32_t> kept(list, list != nullptr ? static_cast<size_t>(keys) : 0);
    const TileGrid grid = tile_grid(c_.plan, kept);
    const int64_t begin = i % tasks * kPanelsPerTask;
    for (int64_t p = begin; p < std::min(num_panels, begin + kPanelsPerTask); ++p) {
      const int64_t first = (p < skip_begin ? p : p + skipped) * kPanelKeys;
      if (steered && !listed(g, grid, first / kBlock)) continue;
      pack_panel(panels, first, static_cast<int>(std::min<int64_t>(kPanelKeys, keys - first)));
    }
  });
}

void Attender::pack_panel(const Panels& to, int64_t first, int count) const {
  if (c_.tiles != nullptr) {
    c_.tiles->pack(to.k_rows, to.v_rows, first, count, dim(), to.blocks);
  } else {
    c_.kernels.pack_panel(to.k_rows, to.v_rows, first, count, dim(), to.kt + first * dim(),
                          to.v + first * dim());
  }
}

void Attender::pack_all(const Pass& pass, KeyRange skip, bool steered) {
  pack(pass, skip, shape().seqlen_kv, steered,
       [&](const PanelGroup& g, int64_t slot) { return identity(g, slot); });
}

void Attender::pack_kept(const Pass& pass, int64_t keys) {
  pack(pass, {}, keys, /*steered=*/true,
       [&](const PanelGroup& g, int64_t slot) { return compacted(g, slot); });
  pack_columns(pass);
}

void Attender::load_tile(const Tile& tile, int64_t head, const int32_t* list, int64_t first,
                         int rows) const {
  const Rows q = list != nullptr ? c_.q_rows(batch_, head, list) : c_.rows(c_.in.q, batch_, head);
  c_.kernels.load_rows(q, first, rows, dim(), c_.q_scale(), tile.q);
  std::fill_n(tile.q + static_cast<int64_t>(rows) * dim(), int64_t{kRowPadding} * dim(), 0.0f);
  std::fill_n(tile.o, static_cast<int64_t>(rows + kRowPadding) * dim(), 0.0f);
  std::fill_n(tile.m, rows, kMasked);
  std::fill_n(tile.l, rows, 0.0f);
}

void Attender::finish_row(const Tile& tile, int r, int64_t head, int64_t row) const {
  float m = tile.m[r];
  float l = tile.l[r];
  float scale = l == 0.0f ? 0.0f : 1.0f / l;
  if (c_.in.sink_logits != nullptr && l != 0.0f) {
    const float sink_mass = c_.in.sink_logits[head] * kLog2E;
    const float max = std::max(m, sink_mass);
    l = l * std::exp2(m - max) + std::exp2(sink_mass - max);
    scale = std::exp2(m - max) / l;
    m = max;
  }
  c_.kernels.store_row(tile.o + static_cast<int64_t>(r) * dim(), scale, dim(), c_.out.out.dtype,
                       row_at(c_.out.out, batch_, row, head));
  if (c_.out.lse != nullptr) {
    *lse_row(head, row) = l == 0.0f ? -INFINITY : (m + std::log2(l)) * kLn2;
  }
}

void Attender::zero_rows(int64_t head, int64_t begin, int64_t end) const {
  const size_t bytes = static_cast<size_t>(dim()) * dtype_size(c_.out.out.dtype);
  for (int64_t row = begin; row < end; ++row) {
    std::memset(row_at(c_.out.out, batch_, row, head), 0, bytes);
    if (c_.out.lse != nullptr) *lse_row(head, row) = -INFINITY;
  }
}

void Attender::attend_rows(const Bundle& bundle, const Panels& panels, int64_t keys,
                           const KeyRange& queries, int64_t seen) const {
  const KeyRange all = {0, keys};
  Logits logits = this->logits();
  RowTile tiles[kBundle];
  const auto first_of = [&](int i) { return queries.begin + bundle.tile_of(i) * kTileRows; };
  for (int i = 0; i < bundle.count(); ++i) {
    const int64_t head = bundle.head_of(i), first = first_of(i);
    ThreadScratch scratch = c_.scratch(bundle.thread, i);
    scratch.tile.rows = static_cast<int>(std::min<int64_t>(kTileRows, queries.end - first));
    load_tile(scratch.tile, head, nullptr, first, scratch.tile.rows);
    for (int r = 0; r < scratch.tile.rows; ++r) {
      scratch.row_end[r] = static_cast<int32_t>(seen + first - queries.begin + r);
    }
    tiles[i] = {scratch.tile, &all, 1, shape().causal ? scratch.row_end : nullptr,
                mask_row(head, first / kBlock), head};
    if (c_.in.bias != nullptr) {  // products are exact, and the bundle is one tile
      logits.bias = c_.in.bias + first * c_.in.bias_row_stride;
      logits.bias_stride = c_.in.bias_row_stride;
      logits.bias_scale = (c_.in.bias_slopes ? c_.in.bias_slopes[head] : 1.0f) * kLog2E;
      logits.bias_cells = cells_;
    }
  }
  attend(tiles, bundle.count(), panels, logits, bundle.thread);
  for (int i = 0; i < bundle.count(); ++i) {
    for (int r = 0; r < tiles[i].tile.rows; ++r) {
      finish_row(tiles[i].tile, r, bundle.head_of(i), first_of(i) + r);
    }
  }
}

void Attender::dense() {
  const KeyRange queries = {0, shape().seqlen_q};
  for_passes(/*sets=*/false, [&](const Pass& pass) {
    pack_all(pass, {}, /*steered=*/true);
    pack_columns(pass);
    for_bundles(pass, divide_up(queries.end, kTileRows), [&](const Bundle& bundle) {
      attend_rows(bundle, identity(bundle.group, bundle.slot), shape().seqlen_kv, queries,
                  c_.q_offset() + 1);
    });
  });
}

// Compact rows against compact keys; zeros between them.
void Attender::zero_fill_bundle(const Bundle& bundle, int64_t keep) const {
  const int32_t* list = indices(bundle.group.set);
  const int64_t count = kept(keep);
  const KeyRange all = {0, count};
  // Sets differ in how many kept tokens are queries of this call: tiles count from the first.
  const int64_t first_query = std::lower_bound(list, list + count, c_.q_offset()) - list;
  RowTile tiles[kBundle];
  int used = 0;  // those with rows come first
  const auto first_of = [&](int i) { return first_query + bundle.tile_of(i) * kTileRows; };
  for (; used < bundle.count() && first_of(used) < count; ++used) {
    const int64_t head = bundle.head_of(used), first = first_of(used);
    ThreadScratch scratch = c_.scratch(bundle.thread, used);
    scratch.tile.rows = static_cast<int>(std::min<int64_t>(kTileRows, count - first));
    load_tile(scratch.tile, head, list, first, scratch.tile.rows);
    for (int r = 0; r < scratch.tile.rows; ++r) {
      scratch.row_end[r] = static_cast<int32_t>(first + r + 1);
    }
    tiles[used] = {scratch.tile, &all, 1, scratch.row_end,
                   mask_row(head, (first - first_query) / kBlock), head};
  }
  attend(tiles, used, compacted(bundle.group, bundle.slot), logits(), bundle.thread);
  for (int i = 0; i < used; ++i) {
    const int64_t head = bundle.head_of(i), first = first_of(i);
    // Rows between the last kept query before this tile and its own last one belong to the task.
    int64_t dropped = first == 0 ? 0 : std::max<int64_t>(0, list[first - 1] + 1 - c_.q_offset());
    for (int r = 0; r < tiles[i].tile.rows; ++r) {
      const int64_t query = list[first + r] - c_.q_offset();
      zero_rows(head, dropped, query);
      finish_row(tiles[i].tile, r, head, query);
      dropped = query + 1;
    }
  }
}

void Attender::zero_fill(int64_t keep) {
  const int64_t keys = kept(keep);
  const int64_t tiles = divide_up(std::min(keys, shape().seqlen_q), kTileRows);
  for_passes(/*sets=*/true, [&](const Pass& pass) {
    pack_kept(pass, keys);
    for_bundles(pass, tiles, [&](const Bundle& bundle) { zero_fill_bundle(bundle, keep); });
  });
}

// All queries of a chunk against the kept past and the chunk; the last obs_window rows against
// everything.
void Attender::chunk(int64_t keep) {
  const int64_t rows = shape().seqlen_q;
  const int64_t sparse_rows = rows - c_.plan.select.obs_window;
  for_passes(/*sets=*/false, [&](const Pass& pass) {
    pack_all(pass, {}, /*steered=*/false);
    for_bundles(pass, divide_up(rows - sparse_rows, kTileRows), [&](const Bundle& bundle) {
      attend_rows(bundle, identity(bundle.group, bundle.slot), shape().seqlen_kv,
                  {sparse_rows, rows}, c_.q_offset() + sparse_rows + 1);
    });
  });
  for_passes(/*sets=*/true, [&](const Pass& pass) {
    if (sparse_rows == 0) return;
    pack_kept(pass, keep + sparse_rows);
    for_bundles(pass, divide_up(sparse_rows, kTileRows), [&](const Bundle& bundle) {
      attend_rows(bundle, compacted(bundle.group, bundle.slot), keep + sparse_rows,
                  {0, sparse_rows}, keep + 1);
    });
  });
}

void attend_dense(Context& context, int64_t batch) { Attender(context, batch).dense(); }

void attend_sparse(Context& context, int64_t batch, int64_t keep) {
  Attender attender(context, batch);
  if (context.plan.select.queries == Queries::kAll) return attender.chunk(keep);
  if (context.plan.select.fill == Fill::kLocal) return attender.local_fill(keep);
  attender.zero_fill(keep);
}

}  // namespace tokensieve::cpu
