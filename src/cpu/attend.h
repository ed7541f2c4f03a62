// Attend of one sequence, dense and sparse: which rows meet which keys. Packing (compact) and the
// write of finished rows (scatter) are fused into it; the arithmetic is in attend-inl.h.
//
// Panel groups are packed some at a time (layout.h); within a phase the tasks are (query head,
// tile), heaviest first. One task owns every (row, head), so nothing is atomic and the result does
// not depend on threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/arena.h"
#include "cpu/context.h"

namespace tokensieve::cpu {

// Query heads that share packed keys: those of a kv head, or one if every query head has its own
// set.
struct PanelGroup {
  int32_t kv_head;
  int32_t set;
  int32_t q_head;   // first
  int32_t q_heads;  // how many
};

// The packed keys of one group.
struct Panels {
  float* kt;
  float* v;
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

  // Packs keys for every group of the pass: those of all tokens but whole panels of `skip`, or the
  // first `keys` kept ones. `steered`: key tiles that the block masks list nowhere are left out.
  void pack_all(const Pass& pass, KeyRange skip, bool steered);
  void pack_kept(const Pass& pass, int64_t keys);
  template <typename F>
  void pack(const Pass& pass, KeyRange skip, int64_t keys, bool steered, F&& target);
  bool listed(const PanelGroup& group, const TileGrid& grid, int64_t key_tile) const;

  // Continues `tile` over keys `range` of the panels, or those of them that the block mask of
  // `head` lists for row tile `row_tile`.
  void attend_keys(const Tile& tile, const Panels& panels, const KeyRange& range,
                   const int32_t* row_end, const Logits& logits, int64_t head,
                   int64_t row_tile) const;

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

  // Queries [first, first + rows) against `keys` packed keys; query first + r sees the first
  // `seen + r` of them if the plan is causal.
  void attend_rows(const Panels& panels, int64_t keys, int64_t head, int64_t first, int rows,
                   int64_t seen, int thread) const;
  void zero_fill_tile(const PanelGroup& group, const Panels& panels, int64_t head, int64_t keep,
                      int64_t first_query, int64_t row, int thread) const;
  int64_t plan_spans(int64_t keep);
  void local_block(ThreadScratch& scratch, const Panels& panels, int64_t head, int64_t begin,
                   int64_t end, int64_t window_begin) const;
  void finish_carried(ThreadScratch& scratch, const Panels& panels, int64_t head, int64_t row,
                      const KeyRange& range) const;
  void local_span(const PanelGroup& group, int64_t slot, int64_t head, int64_t keep, int64_t span,
                  int thread) const;

  Context& c_;
  int64_t batch_;
  int64_t group_size_;
  const int32_t* cells_;
};

}  // namespace tokensieve::cpu
