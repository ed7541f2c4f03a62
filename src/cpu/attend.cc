// Attend of one sequence, dense and sparse: which rows meet which keys. Packing (compact) and the
// write of finished rows (scatter) are fused into it; the arithmetic is in attend-inl.h.
//
// Panel groups are packed some at a time (context.h); within a phase the tasks are (query head,
// tile), heaviest first. One task owns every (row, head), so nothing is atomic and the result does
// not depend on threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "cpu/context.h"

namespace tokensieve::cpu {
namespace {

constexpr int64_t kPanelsPerTask = 8;

int64_t divide_up(int64_t x, int64_t y) { return (x + y - 1) / y; }

// The packed keys of one group.
struct Panels {
  float* kt;
  float* v;
};

// Panel groups that are packed and attended together.
struct Pass {
  bool sets;  // one group per index set that needs its own panels; else one per kv head
  int64_t first, count;
};

class Attender {
 public:
  Attender(Context& context, int64_t batch) : c_(context), batch_(batch) {
    const AttentionShape& s = c_.plan.shape;
    group_size_ = s.num_q_heads / s.num_kv_heads;
    cells_ = c_.in.kv_indices ? c_.in.kv_indices + batch * s.seqlen_kv : nullptr;
  }

  void dense();
  void zero_fill(int64_t keep);
  void local_fill(int64_t keep);
  void chunk(int64_t keep);

 private:
  const AttentionShape& shape() const { return c_.plan.shape; }
  int dim() const { return shape().head_dim; }
  int32_t* indices(int64_t set) const {
    return c_.layout.indices + set * c_.layout.capacity;
  }
  // Kept tokens of a set: the prefix part and everything after the prefix.
  int64_t kept(int64_t keep) const { return keep + shape().seqlen_kv - c_.plan.prefix_len; }

  PanelGroup group(const Pass& pass, int64_t slot) const;
  Panels identity(int64_t slot) const {
    return panels(c_.layout.panels.identity, slot, c_.layout.panels.identity_keys);
  }
  Panels compacted(int64_t slot) const {
    return panels(c_.layout.panels.compact, slot, c_.layout.panels.compact_keys);
  }
  Panels panels(float* base, int64_t slot, int64_t keys) const {
    float* kt = base + slot * keys * dim() * 2;
    return {kt, kt + keys * dim()};
  }

  // Calls body(pass) until all groups had their turn; a pass has as many as the panels hold.
  template <typename F>
  void for_passes(bool sets, F&& body) {
    const int64_t groups =
        sets ? std::max(c_.plan.num_sets, shape().num_kv_heads) : shape().num_kv_heads;
    for (int64_t first = 0; first < groups; first += c_.layout.panels.groups) {
      body(Pass{sets, first, std::min(c_.layout.panels.groups, groups - first)});
    }
  }

  // Calls body(group, slot, query head, tile, thread) for every head and tile of the pass, the
  // last tile, which is the heaviest, first.
  template <typename F>
  void for_tiles(const Pass& pass, int64_t tiles, F&& body) {
    const int64_t heads_per_group = group(pass, 0).q_heads;
    const int64_t heads = pass.count * heads_per_group;
    c_.parallel(Stage::kAttend, heads * tiles, [&](int64_t i, int thread) {
      const int64_t slot = i % heads / heads_per_group;
      const PanelGroup g = group(pass, slot);
      body(g, slot, g.q_head + i % heads_per_group, tiles - 1 - i / heads, thread);
    });
  }

  // Packs keys for every group of the pass: the first `keys` tokens, or kept ones.
  void pack_all(const Pass& pass, int64_t keys);
  void pack_kept(const Pass& pass, int64_t keys);
  template <typename F>
  void pack(const Pass& pass, int64_t keys, F&& target);

  void load_tile(const Tile& tile, int64_t head, const int32_t* list, int64_t first,
                 int rows) const;
  // Normalises row r of the tile and writes it as query `row`.
  void finish_row(const Tile& tile, int r, int64_t head, int64_t row) const;
  void zero_rows(int64_t head, int64_t begin, int64_t end) const;
  char* out_row(int64_t head, int64_t row) const;
  float* lse_row(int64_t head, int64_t row) const;

  // Queries [first, first + rows) against `keys` packed keys; query first + r sees the first
  // `seen + r` of them if the plan is causal.
  void attend_rows(const Panels& panels, int64_t keys, int64_t head, int64_t first, int rows,
                   int64_t seen, int thread) const;
  void zero_fill_tile(const PanelGroup& group, const Panels& panels, int64_t head, int64_t keep,
                      int64_t first, int thread) const;
  int64_t plan_spans(int64_t keep);
  void local_span(const PanelGroup& group, int64_t slot, int64_t head, int64_t keep, int64_t span,
                  int thread) const;

  Context& c_;
  int64_t batch_;
  int64_t group_size_;
  const int32_t* cells_;
};

PanelGroup Attender::group(const Pass& pass, int64_t slot) const {
  const int32_t g = static_cast<int32_t>(pass.first + slot);
  const int32_t size = static_cast<int32_t>(group_size_);
  if (pass.sets && c_.plan.num_sets > shape().num_kv_heads) return {g / size, g, g, 1};
  const int32_t set = c_.plan.num_sets > 1 ? g : 0;
  return {g, set, g * size, size};
}

template <typename F>
void Attender::pack(const Pass& pass, int64_t keys, F&& target) {
  const int64_t num_panels = divide_up(keys, kPanelKeys);
  const int64_t tasks = divide_up(num_panels, kPanelsPerTask);
  c_.parallel(Stage::kCompact, pass.count * tasks, [&](int64_t i, int) {
    const int64_t slot = i / tasks;
    const PanelGroup g = group(pass, slot);
    const auto [panels, list] = target(g, slot);
    Rows k = c_.rows(c_.in.k, batch_, g.kv_head);
    Rows v = c_.rows(c_.in.v, batch_, g.kv_head);
    k.indices = v.indices = list;
    k.cells = v.cells = cells_;
    const int64_t begin = i % tasks * kPanelsPerTask;
    for (int64_t p = begin; p < std::min(num_panels, begin + kPanelsPerTask); ++p) {
      const int64_t first = p * kPanelKeys;
      const int count = static_cast<int>(std::min<int64_t>(kPanelKeys, keys - first));
      c_.kernels.pack_panel(k, v, first, count, dim(), panels.kt + first * dim(),
                            panels.v + first * dim());
    }
  });
}

void Attender::pack_all(const Pass& pass, int64_t keys) {
  pack(pass, keys, [&](const PanelGroup&, int64_t slot) {
    return std::pair<Panels, const int32_t*>(identity(slot), nullptr);
  });
}

void Attender::pack_kept(const Pass& pass, int64_t keys) {
  pack(pass, keys, [&](const PanelGroup& g, int64_t slot) {
    return std::pair<Panels, const int32_t*>(compacted(slot), indices(g.set));
  });
}

void Attender::load_tile(const Tile& tile, int64_t head, const int32_t* list, int64_t first,
                         int rows) const {
  Rows q = c_.rows(c_.in.q, batch_, head);
  if (list != nullptr) {  // positions of the whole sequence; q holds its end
    q.indices = list;
    q.base -= c_.q_offset() * q.stride_bytes;
  }
  c_.kernels.load_rows(q, first, rows, dim(), c_.q_scale(), tile.q);
  // Rows that fill up the microkernel's last group.
  std::fill_n(tile.q + static_cast<int64_t>(rows) * dim(), int64_t{4} * dim(), 0.0f);
  std::fill_n(tile.o, static_cast<int64_t>(rows + 4) * dim(), 0.0f);
  std::fill_n(tile.m, rows, kMasked);
  std::fill_n(tile.l, rows, 0.0f);
}

char* Attender::out_row(int64_t head, int64_t row) const {
  const TensorView& out = c_.out.out;
  const int64_t at = batch_ * out.strides[0] + row * out.strides[1] + head * out.strides[2];
  return static_cast<char*>(out.data) + at * static_cast<int64_t>(dtype_size(out.dtype));
}

float* Attender::lse_row(int64_t head, int64_t row) const {
  return c_.out.lse + (batch_ * shape().num_q_heads + head) * shape().seqlen_q + row;
}

void Attender::finish_row(const Tile& tile, int r, int64_t head, int64_t row) const {
  float m = tile.m[r];
  float l = tile.l[r];
  float scale = l == 0.0f ? 0.0f : 1.0f / l;
  if (c_.in.sink_logits != nullptr && l != 0.0f) {
    const float sink = c_.in.sink_logits[head] * kLog2E;
    const float max = std::max(m, sink);
    l = l * std::exp2(m - max) + std::exp2(sink - max);
    scale = std::exp2(m - max) / l;
    m = max;
  }
  c_.kernels.store_row(tile.o + static_cast<int64_t>(r) * dim(), scale, dim(), c_.out.out.dtype,
                       out_row(head, row));
  if (c_.out.lse != nullptr) {
    *lse_row(head, row) = l == 0.0f ? -INFINITY : (m + std::log2(l)) * kLn2;
  }
}

void Attender::zero_rows(int64_t head, int64_t begin, int64_t end) const {
  const size_t bytes = static_cast<size_t>(dim()) * dtype_size(c_.out.out.dtype);
  for (int64_t row = begin; row < end; ++row) {
    std::memset(out_row(head, row), 0, bytes);
    if (c_.out.lse != nullptr) *lse_row(head, row) = -INFINITY;
  }
}

// ---- dense

void Attender::attend_rows(const Panels& panels, int64_t keys, int64_t head, int64_t first,
                           int rows, int64_t seen, int thread) const {
  ThreadScratch scratch = c_.scratch(thread);
  Tile& tile = scratch.tile;
  tile.rows = rows;
  load_tile(tile, head, nullptr, first, rows);
  for (int r = 0; r < rows; ++r) scratch.row_end[r] = static_cast<int32_t>(seen + r);
  Logits logits;
  logits.softcap = c_.softcap_log2();
  if (c_.in.bias != nullptr) {
    logits.bias = c_.in.bias + first * c_.in.bias_row_stride;
    logits.bias_stride = c_.in.bias_row_stride;
    logits.bias_scale = (c_.in.bias_slopes ? c_.in.bias_slopes[head] : 1.0f) * kLog2E;
    logits.bias_cells = cells_;
  }
  const int32_t* row_end = shape().causal ? scratch.row_end : nullptr;
  c_.kernels.attend(tile, {panels.kt, panels.v, 0, keys, row_end}, logits);
  for (int r = 0; r < rows; ++r) finish_row(tile, r, head, first + r);
}

void Attender::dense() {
  const int64_t keys = shape().seqlen_kv;
  const int64_t tiles = divide_up(shape().seqlen_q, kTileRows);
  for_passes(/*sets=*/false, [&](const Pass& pass) {
    pack_all(pass, keys);
    for_tiles(pass, tiles, [&](const PanelGroup&, int64_t slot, int64_t head, int64_t tile,
                               int thread) {
      const int64_t row = tile * kTileRows;
      const int rows = static_cast<int>(std::min<int64_t>(kTileRows, shape().seqlen_q - row));
      attend_rows(identity(slot), keys, head, row, rows, c_.q_offset() + row + 1, thread);
    });
  });
}

// ---- zero fill: compact rows against compact keys, zeros between them

void Attender::zero_fill_tile(const PanelGroup& group, const Panels& panels, int64_t head,
                              int64_t keep, int64_t first, int thread) const {
  const int32_t* list = indices(group.set);
  const int64_t count = kept(keep);
  ThreadScratch scratch = c_.scratch(thread);
  Tile& tile = scratch.tile;
  tile.rows = static_cast<int>(std::min<int64_t>(kTileRows, count - first));
  load_tile(tile, head, list, first, tile.rows);
  for (int r = 0; r < tile.rows; ++r) {
    scratch.row_end[r] = static_cast<int32_t>(first + r + 1);
  }
  Logits logits;
  logits.softcap = c_.softcap_log2();
  c_.kernels.attend(tile, {panels.kt, panels.v, 0, count, scratch.row_end}, logits);
  // Rows between the last kept query before this tile and its own last one belong to the task.
  int64_t row = first == 0 ? 0 : std::max<int64_t>(0, list[first - 1] + 1 - c_.q_offset());
  for (int r = 0; r < tile.rows; ++r) {
    const int64_t query = list[first + r] - c_.q_offset();
    zero_rows(head, row, query);
    finish_row(tile, r, head, query);
    row = query + 1;
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
      const int64_t row = first_query + tile * kTileRows;
      if (row < keys) zero_fill_tile(g, compacted(slot), head, keep, row, thread);
    });
  });
}

// ---- local fill: every row sees the sinks and its window; kept rows go on over the compact keys
// before the window, in the same online softmax, so that nothing is merged.

// Cuts the query blocks of every set into spans with at most kTileRows kept rows each. Returns the
// largest number of spans of a set; span i of set s is blocks [spans[i], spans[i + 1]).
int64_t Attender::plan_spans(int64_t keep) {
  const int64_t blocks = num_blocks(c_.plan);
  const int64_t first_block = c_.q_offset() / kLocalBlock;
  const int64_t count = kept(keep);
  int64_t most = 0;
  for (int64_t set = 0; set < c_.plan.num_sets; ++set) {
    const int32_t* list = indices(set);
    int32_t* spans = c_.layout.spans + set * (blocks + 1);
    int64_t written = 0;
    int64_t in_span = 0;
    int64_t at = std::lower_bound(list, list + count, c_.q_offset()) - list;
    for (int64_t block = first_block; block < blocks; ++block) {
      int64_t in_block = 0;
      for (; at < count && list[at] < (block + 1) * kLocalBlock; ++at) ++in_block;
      if (block == first_block || in_span + in_block > kTileRows) {
        spans[written++] = static_cast<int32_t>(block);
        in_span = 0;
      }
      in_span += in_block;
    }
    // Unused entries make empty spans.
    most = std::max(most, written);
    std::fill(spans + written, spans + blocks + 1, static_cast<int32_t>(blocks));
  }
  return most;
}

void Attender::local_span(const PanelGroup& group, int64_t slot, int64_t head, int64_t keep,
                          int64_t span, int thread) const {
  const SelectConfig& select = c_.plan.select;
  const int32_t* spans = c_.layout.spans + group.set * (num_blocks(c_.plan) + 1);
  const int32_t* list = indices(group.set);
  const int32_t* list_end = list + kept(keep);
  const Panels all = identity(slot);
  const Panels compact = compacted(slot);
  // Kept sinks are visible to every row already.
  const int64_t compact_begin = std::lower_bound(list, list_end, select.sinks) - list;
  ThreadScratch scratch = c_.scratch(thread);
  Logits logits;
  logits.softcap = c_.softcap_log2();
  Tile& tile = scratch.tile;
  Tile& carried = scratch.kept;
  carried.rows = 0;
  int64_t compact_end = compact_begin;

  for (int64_t block = spans[span]; block < spans[span + 1]; ++block) {
    const int64_t begin = std::max(block * kLocalBlock, c_.q_offset());
    const int64_t end = std::min<int64_t>((block + 1) * kLocalBlock, shape().seqlen_kv);
    const int64_t window = std::max<int64_t>(0, block * kLocalBlock - select.local_window);
    tile.rows = static_cast<int>(end - begin);
    load_tile(tile, head, nullptr, begin - c_.q_offset(), tile.rows);
    const int64_t sinks = std::min<int64_t>(select.sinks, window);
    if (sinks > 0) c_.kernels.attend(tile, {all.kt, all.v, 0, sinks, nullptr}, logits);
    for (int r = 0; r < tile.rows; ++r) {
      scratch.row_end[r] = static_cast<int32_t>(begin + r + 1);
    }
    c_.kernels.attend(tile, {all.kt, all.v, window, end, scratch.row_end}, logits);

    const int64_t limit = std::lower_bound(list, list_end, window) - list;
    const int32_t* next = std::lower_bound(list, list_end, begin);
    for (int r = 0; r < tile.rows; ++r) {
      const bool is_kept = next < list_end && *next == begin + r;
      next += is_kept;
      if (!is_kept || limit <= compact_begin) {
        finish_row(tile, r, head, begin + r - c_.q_offset());
        continue;
      }
      const int at = carried.rows++;
      std::copy_n(tile.q + static_cast<int64_t>(r) * dim(), dim(), carried.q + at * dim());
      std::copy_n(tile.o + static_cast<int64_t>(r) * dim(), dim(), carried.o + at * dim());
      carried.m[at] = tile.m[r];
      carried.l[at] = tile.l[r];
      scratch.kept_row_end[at] = static_cast<int32_t>(limit);
      scratch.kept_rows[at] = static_cast<int32_t>(begin + r - c_.q_offset());
      compact_end = limit;
    }
  }
  if (carried.rows == 0) return;
  std::fill_n(carried.q + static_cast<int64_t>(carried.rows) * dim(), int64_t{4} * dim(), 0.0f);
  c_.kernels.attend(carried,
                    {compact.kt, compact.v, compact_begin, compact_end, scratch.kept_row_end},
                    logits);
  for (int r = 0; r < carried.rows; ++r) finish_row(carried, r, head, scratch.kept_rows[r]);
}

void Attender::local_fill(int64_t keep) {
  int64_t spans = 0;
  c_.parallel(Stage::kSelect, 1, [&](int64_t, int) { spans = plan_spans(keep); });
  for_passes(/*sets=*/true, [&](const Pass& pass) {
    pack_all(pass, shape().seqlen_kv);
    pack_kept(pass, kept(keep));
    for_tiles(pass, spans, [&](const PanelGroup& g, int64_t slot, int64_t head, int64_t span,
                               int thread) { local_span(g, slot, head, keep, span, thread); });
  });
}

// ---- chunk: all queries of a chunk against the kept past and the chunk; the last obs_window rows
// against everything

void Attender::chunk(int64_t keep) {
  const int64_t all_keys = shape().seqlen_kv;
  const int64_t exact_rows = c_.plan.select.obs_window;
  const int64_t sparse_rows = shape().seqlen_q - exact_rows;
  for_passes(/*sets=*/false, [&](const Pass& pass) {
    pack_all(pass, all_keys);
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

}  // namespace

void attend_dense(Context& context, int64_t batch) { Attender(context, batch).dense(); }

void attend_sparse(Context& context, int64_t batch, int64_t keep) {
  Attender attender(context, batch);
  if (context.plan.select.queries == Queries::kAll) return attender.chunk(keep);
  if (context.plan.select.fill == Fill::kLocal) return attender.local_fill(keep);
  attender.zero_fill(keep);
}

}  // namespace tokensieve::cpu
