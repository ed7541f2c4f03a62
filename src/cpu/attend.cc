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
    const auto [panels, list] = target(g, slot);
    Rows k = c_.rows(c_.in.k, batch_, g.kv_head);
    Rows v = c_.rows(c_.in.v, batch_, g.kv_head);
    k.indices = v.indices = list;
    k.cells = v.cells = cells_;
    const std::span<const int32_t> kept(list, list != nullptr ? static_cast<size_t>(keys) : 0);
    const TileGrid grid = tile_grid(c_.plan, kept);
    const int64_t begin = i % tasks * kPanelsPerTask;
    for (int64_t p = begin; p < std::min(num_panels, begin + kPanelsPerTask); ++p) {
      const int64_t first = (p < skip_begin ? p : p + skipped) * kPanelKeys;
      if (steered && !listed(g, grid, first / kBlock)) continue;
      const int count = static_cast<int>(std::min<int64_t>(kPanelKeys, keys - first));
      c_.kernels.pack_panel(k, v, first, count, dim(), panels.kt + first * dim(),
                            panels.v + first * dim());
    }
  });
}

void Attender::pack_all(const Pass& pass, KeyRange skip, bool steered) {
  pack(pass, skip, shape().seqlen_kv, steered, [&](const PanelGroup&, int64_t slot) {
    return std::pair<Panels, const int32_t*>(identity(slot), nullptr);
  });
}

void Attender::pack_kept(const Pass& pass, int64_t keys) {
  pack(pass, {}, keys, /*steered=*/true, [&](const PanelGroup& g, int64_t slot) {
    return std::pair<Panels, const int32_t*>(compacted(slot), indices(g.set));
  });
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

void Attender::attend_rows(const Panels& panels, int64_t keys, int64_t head, int64_t first,
                           int rows, int64_t seen, int thread) const {
  ThreadScratch scratch = c_.scratch(thread);
  Tile& tile = scratch.tile;
  tile.rows = rows;
  load_tile(tile, head, nullptr, first, rows);
  for (int r = 0; r < rows; ++r) scratch.row_end[r] = static_cast<int32_t>(seen + r);
  Logits logits = this->logits();
  if (c_.in.bias != nullptr) {
    logits.bias = c_.in.bias + first * c_.in.bias_row_stride;
    logits.bias_stride = c_.in.bias_row_stride;
    logits.bias_scale = (c_.in.bias_slopes ? c_.in.bias_slopes[head] : 1.0f) * kLog2E;
    logits.bias_cells = cells_;
  }
  const int32_t* row_end = shape().causal ? scratch.row_end : nullptr;
  attend_keys(tile, panels, {0, keys}, row_end, logits, head, first / kBlock);
  for (int r = 0; r < rows; ++r) finish_row(tile, r, head, first + r);
}

void Attender::dense() {
  const int64_t keys = shape().seqlen_kv;
  const int64_t tiles = divide_up(shape().seqlen_q, kTileRows);
  for_passes(/*sets=*/false, [&](const Pass& pass) {
    pack_all(pass, {}, /*steered=*/true);
    pack_columns(pass);
    for_tiles(pass, tiles, [&](const PanelGroup&, int64_t slot, int64_t head, int64_t tile,
                               int thread) {
      const int64_t row = tile * kTileRows;
      const int rows = static_cast<int>(std::min<int64_t>(kTileRows, shape().seqlen_q - row));
      attend_rows(identity(slot), keys, head, row, rows, c_.q_offset() + row + 1, thread);
    });
  });
}

// Compact rows, from `row` on after the first query, against compact keys; zeros between them.
void Attender::zero_fill_tile(const PanelGroup& group, const Panels& panels, int64_t head,
                              int64_t keep, int64_t first_query, int64_t row,
                              int thread) const {
  const int32_t* list = indices(group.set);
  const int64_t count = kept(keep);
  const int64_t first = first_query + row;
  ThreadScratch scratch = c_.scratch(thread);
  Tile& tile = scratch.tile;
  tile.rows = static_cast<int>(std::min<int64_t>(kTileRows, count - first));
  load_tile(tile, head, list, first, tile.rows);
  for (int r = 0; r < tile.rows; ++r) {
    scratch.row_end[r] = static_cast<int32_t>(first + r + 1);
  }
  attend_keys(tile, panels, {0, count}, scratch.row_end, logits(), head, row / kBlock);
  // Rows between the last kept query before this tile and its own last one belong to the task.
  int64_t dropped = first == 0 ? 0 : std::max<int64_t>(0, list[first - 1] + 1 - c_.q_offset());
  for (int r = 0; r < tile.rows; ++r) {
    const int64_t query = list[first + r] - c_.q_offset();
    zero_rows(head, dropped, query);
    finish_row(tile, r, head, query);
    dropped = query + 1;
  }
}

void Attender::zero_fill(int64_t keep) {
  const int64_t keys = kept(keep);
  // Sets differ in how many kept tokens are queries of this call: tiles count from the first.
  const int64_t tiles = divide_up(std::min(keys, shape().seqlen_q), kTileRows);
  for_passes(/*sets=*/true, [&](const Pass& pass) {
    pack_kept(pass, keys);
    for_tiles(pass, tiles, [&](const PanelGroup& g, int64_t slot, int64_t head, int64_t tile,
                               int thread) {
      const int32_t* list = indices(g.set);
      const int64_t first_query = std::lower_bound(list, list + keys, c_.q_offset()) - list;
      const int64_t row = tile * kTileRows;
      if (first_query + row < keys) {
        zero_fill_tile(g, compacted(slot), head, keep, first_query, row, thread);
      }
    });
  });
}

// All queries of a chunk against the kept past and the chunk; the last obs_window rows against
// everything.
void Attender::chunk(int64_t keep) {
  const int64_t all_keys = shape().seqlen_kv;
  const int64_t exact_rows = c_.plan.select.obs_window;
  const int64_t sparse_rows = shape().seqlen_q - exact_rows;
  for_passes(/*sets=*/false, [&](const Pass& pass) {
    pack_all(pass, {}, /*steered=*/false);
    for_tiles(pass, divide_up(exact_rows, kTileRows),
              [&](const PanelGroup&, int64_t slot, int64_t head, int64_t tile, int thread) {
                const int64_t row = tile * kTileRows;
                const int rows = static_cast<int>(std::min<int64_t>(kTileRows, exact_rows - row));
                const int64_t query = sparse_rows + row;
                attend_rows(identity(slot), all_keys, head, query, rows,
                            c_.q_offset() + query + 1, thread);
              });
  });
  const int64_t keys = keep + sparse_rows;
  for_passes(/*sets=*/true, [&](const Pass& pass) {
    if (sparse_rows == 0) return;
    pack_kept(pass, keys);
    for_tiles(pass, divide_up(sparse_rows, kTileRows),
              [&](const PanelGroup&, int64_t slot, int64_t head, int64_t tile, int thread) {
                const int64_t row = tile * kTileRows;
                const int rows = static_cast<int>(std::min<int64_t>(kTileRows, sparse_rows - row));
                attend_rows(compacted(slot), keys, head, row, rows, keep + row + 1, thread);
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
