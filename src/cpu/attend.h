// Attend of one sequence, dense and sparse: which rows meet which keys. Packing (compact) and the
// write of finished rows (scatter) are fused into it; the arithmetic is in attend-inl.h.
//
// Panel groups are packed some at a time (layout.h); within a phase the tasks are bundles of (query
// head, tile), heaviest first. One task owns every (row, head), so nothing is atomic and the result
// does not depend on threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/arena.h"
#include "cpu/context.h"
#include "cpu/tiles/tiles.h"

namespace tokensieve::cpu {

// Query heads that share packed keys: those of a kv head, or one if every query head has its own
// set.
struct PanelGroup {
  int32_t kv_head;
  int32_t set;
  int32_t q_head;   // first
  int32_t q_heads;  // how many
};

// The packed keys of one group: kt and v where products are exact, else blocks. `columns`: single
// ones of each of its query heads.
struct Panels {
  Rows k_rows, v_rows;  // that they are packed from
  float* kt;
  float* v;
  float* columns;
  TileBlocks blocks;
};

// Row tiles [tile, tile + tiles) of query heads [head, head + heads), which share packed keys: a
// task. One row tile where products are exact, at most kBundle on matrix tiles.
struct Bundle {
  PanelGroup group;
  int64_t slot;
  int64_t head, heads;
  int64_t tile, tiles;
  int thread;

  int count() const { return static_cast<int>(heads * tiles); }
  int64_t head_of(int i) const { return head + i % heads; }
  int64_t tile_of(int i) const { return tile + i / heads; }
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
  void local_fill(int64_t keep);  // attend_local.cc
  void chunk(int64_t keep);

 private:
  // Panel groups that are packed and attended together.
  struct Pass {
    bool sets;  // one group per index set that needs its own panels; else one per kv head
    int64_t first, count;
  };

  const AttentionShape& shape() const { return c_.plan.shape; }
  int dim() const { return shape().head_dim; }
  Logits logits() const { return {.softcap = c_.softcap_log2()}; }
  const int32_t* indices(int64_t set) const {
    return c_.layout.indices + set * c_.layout.keep_capacity;
  }
  // Kept tokens of a set: the prefix part and everything after the prefix.
  int64_t kept(int64_t keep) const { return keep + c_.plan.suffix_len(); }

  PanelGroup group(const Pass& pass, int64_t slot) const;
  Panels identity(const PanelGroup& group, int64_t slot) const;
  Panels compacted(const PanelGroup& group, int64_t slot) const;
  Panels panels(const PanelGroup& group, int64_t slot, const int32_t* list, std::byte* base,
                int64_t keys) const;
  int64_t column_floats() const { return c_.layout.panels.column_keys * dim() * 2; }
  float* column_panels(const Panels& panels, int64_t head) const {
    return panels.columns + head % group_size_ * column_floats();
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

  // Calls body(bundle) until every head of the pass had its tiles, the last ones, which are the
  // heaviest, first.
  template <typename F>
  void for_bundles(const Pass& pass, int64_t tiles, F&& body) {
    const int64_t group_heads = group(pass, 0).q_heads;
    const int64_t most = c_.layout.row_tiles;
    const int64_t parts = divide_up(group_heads, most);  // of a group's heads
    const int64_t heads = divide_up(group_heads, parts);
    const int64_t columns = pass.count * parts;
    // Fewer tiles a bundle rather than too few tasks for the threads.
    const int64_t fair = columns * tiles / (4 * c_.plan.options.num_threads);
    const int64_t at_once = std::clamp<int64_t>(fair, 1, most / heads);
    const int64_t rows = divide_up(tiles, at_once);
    c_.parallel(Stage::kAttend, columns * rows, [&](int64_t i, int thread) {
      const int64_t slot = i % columns / parts, first_head = i % parts * heads;
      const int64_t row = (rows - 1 - i / columns) * at_once;
      const PanelGroup g = group(pass, slot);
      body(Bundle{.group = g,
                  .slot = slot,
                  .head = g.q_head + first_head,
                  .heads = std::min(heads, group_heads - first_head),
                  .tile = row,
                  .tiles = std::min(at_once, tiles - row),
                  .thread = thread});
    });
  }

  // Packs keys for every group of the pass: those of all tokens but whole panels of `skip`, or the
  // first `keys` kept ones. `steered`: key tiles that the block masks list nowhere are left out.
  void pack_all(const Pass& pass, KeyRange skip, bool steered);
  void pack_kept(const Pass& pass, int64_t keys);
  template <typename F>
  void pack(const Pass& pass, KeyRange skip, int64_t keys, bool steered, F&& target);
  void pack_panel(const Panels& to, int64_t first, int count) const;
  bool listed(const PanelGroup& group, const TileGrid& grid, int64_t key_tile) const;
  // The single columns of every head of the pass.
  void pack_columns(const Pass& pass);

  // Continues the softmax of `count` row tiles over the keys of their ranges.
  void attend(const RowTile* tiles, int count, const Panels& panels, const Logits& logits,
              int thread) const;
  // Key tiles that the mask lists, and the head's columns between them.
  void attend_masked(const RowTile& tile, const Panels& panels, const Logits& logits) const;
  void attend_columns(const RowTile& tile, const KeyRange& range, const Panels& panels,
                      const Logits& logits) const;
  // What the block mask of `head` lists for row tile `row_tile`; null without a mask.
  const uint32_t* mask_row(int64_t head, int64_t row_tile) const;

  // Starts a tile with rows [first, first + rows) of q, or of the queries that a list of tokens
  // gives.
  void load_tile(const Tile& tile, int64_t head, const int32_t* list, int64_t first,
                 int rows) const;
  // Normalises row r of the tile and writes it as query `row`.
  void finish_row(const Tile& tile, int r, int64_t head, int64_t row) const;
  void zero_rows(int64_t head, int64_t begin, int64_t end) const;
  float* lse_row(int64_t head, int64_t row) const {
    return c_.out.lse + (batch_ * shape().num_q_heads + head) * shape().seqlen_q + row;
  }

  // Queries `queries`, of which tile 0 begins with the first, against `keys` packed keys; query
  // begin + r sees the first `seen + r` of them if the plan is causal.
  void attend_rows(const Bundle& bundle, const Panels& panels, int64_t keys,
                   const KeyRange& queries, int64_t seen) const;
  void zero_fill_bundle(const Bundle& bundle, int64_t keep) const;
  int64_t plan_spans(int64_t keep);
  struct LocalSpan;
  LocalSpan start_span(const Bundle& bundle, int i, int64_t keep) const;
  RowTile start_block(LocalSpan& span) const;
  void finish_block(LocalSpan& span) const;
  void finish_carried(LocalSpan* spans, int count, bool later, const Panels& panels,
                      int thread) const;
  void local_bundle(const Bundle& bundle, int64_t keep) const;

  Context& c_;
  int64_t batch_;
  int64_t group_size_;
  const int32_t* cells_;
};

}  // namespace tokensieve::cpu
