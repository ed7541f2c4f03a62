// Local fill: every row sees the sinks and its window; kept rows go on over the compact keys before
// the window, in the same online softmax, so that nothing is merged.
#include <utility>

#include "cpu/attend.h"

namespace tokensieve::cpu {
namespace {

// Row r of the block's tile goes on with the kept rows, over the first `compact_end` compact keys.
void carry_row(ThreadScratch& scratch, int r, int64_t query, int64_t compact_end) {
  const Tile& tile = scratch.tile;
  Tile& kept = scratch.kept;
  const int64_t dim = tile.dim;
  const int at = kept.rows++;
  std::copy_n(tile.q + r * dim, dim, kept.q + at * dim);
  std::copy_n(tile.o + r * dim, dim, kept.o + at * dim);
  kept.m[at] = tile.m[r];
  kept.l[at] = tile.l[r];
  scratch.kept_row_end[at] = static_cast<int32_t>(compact_end);
  scratch.kept_rows[at] = static_cast<int32_t>(query);
}

}  // namespace

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

// Tokens [begin, end) of a block against the sinks and their window.
void Attender::local_block(ThreadScratch& scratch, const Panels& panels, int64_t head,
                           int64_t begin, int64_t end, int64_t window_begin) const {
  Tile& tile = scratch.tile;
  tile.rows = static_cast<int>(end - begin);
  load_tile(tile, head, nullptr, begin - c_.q_offset(), tile.rows);
  for (int r = 0; r < tile.rows; ++r) scratch.row_end[r] = static_cast<int32_t>(begin + r + 1);
  const int64_t sink_tokens = std::min<int64_t>(c_.plan.select.sinks, window_begin);
  const KeyRange ranges[] = {{0, sink_tokens}, {window_begin, end}};
  c_.kernels.attend(tile, {panels.kt, panels.v, ranges, scratch.row_end}, logits());
}

// The carried rows, kept queries from `row` on, against compact keys `range`.
void Attender::finish_carried(ThreadScratch& scratch, const Panels& panels, int64_t head,
                              int64_t row, const KeyRange& range) const {
  const Tile& carried = scratch.kept;
  std::fill_n(carried.q + int64_t{carried.rows} * dim(), int64_t{kRowPadding} * dim(), 0.0f);
  // Two row tiles of a block mask may share the tile. The later rows go first: the kernel also
  // writes to some rows past a tile's last, and these are then done.
  int cut = carried.rows;
  if (c_.mask.bits != nullptr) {
    cut = static_cast<int>(std::min<int64_t>(cut, kBlock - row % kBlock));
  }
  for (const auto& [begin, end] : {std::pair{cut, carried.rows}, {0, cut}}) {
    if (begin == end) continue;
    Tile part = carried;
    part.q += int64_t{begin} * dim();
    part.o += int64_t{begin} * dim();
    part.m += begin;
    part.l += begin;
    part.rows = end - begin;
    attend_keys(part, panels, range, scratch.kept_row_end + begin, logits(), head,
                (row + begin) / kBlock);
    for (int r = 0; r < part.rows; ++r) {
      finish_row(part, r, head, scratch.kept_rows[begin + r]);
    }
  }
}

void Attender::local_span(const PanelGroup& group, int64_t slot, int64_t head, int64_t keep,
                          int64_t span, int thread) const {
  const SelectConfig& select = c_.plan.select;
  const int32_t* spans = c_.layout.spans + group.set * (num_blocks(c_.plan) + 1);
  const int32_t* list = indices(group.set);
  const int32_t* list_end = list + kept(keep);
  // Kept sinks are visible to every row already.
  const int64_t compact_begin = std::lower_bound(list, list_end, select.sinks) - list;
  const int64_t first_query = std::lower_bound(list, list_end, c_.q_offset()) - list;
  int64_t compact_end = compact_begin;
  int64_t carried_row = 0;  // of the first carried row, among the kept queries
  ThreadScratch scratch = c_.scratch(thread);
  scratch.kept.rows = 0;
  for (int64_t block = spans[span]; block < spans[span + 1]; ++block) {
    const int64_t begin = std::max(block * kLocalBlock, c_.q_offset());
    const int64_t end = std::min<int64_t>((block + 1) * kLocalBlock, shape().seqlen_kv);
    const int64_t window_begin = std::max<int64_t>(0, block * kLocalBlock - select.local_window);
    local_block(scratch, identity(slot), head, begin, end, window_begin);
    const int64_t limit = std::lower_bound(list, list_end, window_begin) - list;
    const int32_t* next = std::lower_bound(list, list_end, begin);
    for (int r = 0; r < scratch.tile.rows; ++r) {
      const bool is_kept = next < list_end && *next == begin + r;
      next += is_kept;
      const int64_t query = begin + r - c_.q_offset();
      if (is_kept && limit > compact_begin) {
        if (scratch.kept.rows == 0) carried_row = next - 1 - list - first_query;
        carry_row(scratch, r, query, limit);
        compact_end = limit;
      } else {
        finish_row(scratch.tile, r, head, query);
      }
    }
  }
  finish_carried(scratch, compacted(slot), head, carried_row, {compact_begin, compact_end});
}

void Attender::local_fill(int64_t keep) {
  const SelectConfig& select = c_.plan.select;
  // A chunk's rows see of the tokens before the first window the sinks and kept ones only.
  const int64_t first_window = c_.q_offset() / kLocalBlock * kLocalBlock - select.local_window;
  const KeyRange unseen = {select.sinks, std::max<int64_t>(select.sinks, first_window)};
  int64_t spans = 0;
  c_.parallel(Stage::kSelect, 1, [&](int64_t, int) { spans = plan_spans(keep); });
  for_passes(/*sets=*/true, [&](const Pass& pass) {
    pack_all(pass, unseen, /*steered=*/false);
    pack_kept(pass, kept(keep));
    for_tiles(pass, spans, [&](const PanelGroup& g, int64_t slot, int64_t head, int64_t span,
                               int thread) { local_span(g, slot, head, keep, span, thread); });
  });
}

}  // namespace tokensieve::cpu
