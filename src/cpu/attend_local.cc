// Local fill: every row sees the sinks and its window; kept rows go on over the compact keys before
// the window, in the same online softmax, so that nothing is merged.
#include <utility>

#include "cpu/attend.h"

namespace tokensieve::cpu {
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

// A query head's walk over the blocks of a span.
struct Attender::LocalSpan {
  int64_t head;
  const int32_t *list, *list_end;
  int64_t block, end_block;
  ThreadScratch scratch;
  KeyRange ranges[2];       // of the block at hand: sinks and window
  int64_t begin = 0;        // its first token
  KeyRange compact;         // keys that carried rows see together
  int64_t first_query;      // kept tokens before the first query
  int64_t carried_row = 0;  // of the first carried row, among the kept queries

  bool done() const { return block == end_block; }

  // Row r of the block's tile goes on with the kept rows, over the compact keys before
  // `compact_end`.
  void carry_row(int r, int64_t query, int64_t compact_end) {
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
    compact.end = compact_end;
  }
};

Attender::LocalSpan Attender::start_span(const Bundle& bundle, int i, int64_t keep) const {
  const int64_t set = bundle.group.set;
  const int32_t* spans = c_.layout.spans + set * (num_blocks(c_.plan) + 1) + bundle.tile_of(i);
  const int32_t* list = indices(set);
  const int32_t* list_end = list + kept(keep);
  // Kept sinks are visible to every row already.
  const int64_t begin = std::lower_bound(list, list_end, c_.plan.select.sinks) - list;
  LocalSpan span = {.head = bundle.head_of(i),
                    .list = list,
                    .list_end = list_end,
                    .block = spans[0],
                    .end_block = spans[1],
                    .scratch = c_.scratch(bundle.thread, i),
                    .ranges = {},
                    .compact = {begin, begin},
                    .first_query = std::lower_bound(list, list_end, c_.q_offset()) - list};
  span.scratch.kept.rows = 0;
  return span;
}

// The block's tokens against the sinks and their window.
RowTile Attender::start_block(LocalSpan& span) const {
  const SelectConfig& select = c_.plan.select;
  const int64_t first = span.block * kLocalBlock;
  const int64_t end = std::min<int64_t>(first + kLocalBlock, shape().seqlen_kv);
  const int64_t window_begin = std::max<int64_t>(0, first - select.local_window);
  span.begin = std::max(first, c_.q_offset());
  span.ranges[0] = {0, std::min<int64_t>(select.sinks, window_begin)};
  span.ranges[1] = {window_begin, end};
  Tile& tile = span.scratch.tile;
  tile.rows = static_cast<int>(end - span.begin);
  load_tile(tile, span.head, nullptr, span.begin - c_.q_offset(), tile.rows);
  for (int r = 0; r < tile.rows; ++r) {
    span.scratch.row_end[r] = static_cast<int32_t>(span.begin + r + 1);
  }
  return {tile, span.ranges, 2, span.scratch.row_end, nullptr, span.head};
}

// Dropped rows are finished; kept ones are, too, if there are no compact keys before their window.
void Attender::finish_block(LocalSpan& span) const {
  const int64_t limit =
      std::lower_bound(span.list, span.list_end, span.ranges[1].begin) - span.list;
  const int32_t* next = std::lower_bound(span.list, span.list_end, span.begin);
  for (int r = 0; r < span.scratch.tile.rows; ++r) {
    const bool is_kept = next < span.list_end && *next == span.begin + r;
    next += is_kept;
    const int64_t query = span.begin + r - c_.q_offset();
    if (is_kept && limit > span.compact.begin) {
      if (span.scratch.kept.rows == 0) span.carried_row = next - 1 - span.list - span.first_query;
      span.carry_row(r, query, limit);
    } else {
      finish_row(span.scratch.tile, r, span.head, query);
    }
  }
  ++span.block;
}

// The carried rows against their compact keys. Two row tiles of a block mask may share a tile of
// them, of which one is meant. The later rows must go first: a kernel also writes to some rows past
// its last, and these are then done.
void Attender::finish_carried(LocalSpan* spans, int count, bool later, const Panels& panels,
                              int thread) const {
  RowTile parts[kBundle];
  int begins[kBundle], used[kBundle], parts_used = 0;
  for (int i = 0; i < count; ++i) {
    const Tile& carried = spans[i].scratch.kept;
    int cut = carried.rows;
    if (c_.mask.bits != nullptr) {
      cut = static_cast<int>(std::min<int64_t>(cut, kBlock - spans[i].carried_row % kBlock));
    }
    const int begin = later ? cut : 0, end = later ? carried.rows : cut;
    if (begin == end) continue;
    std::fill_n(carried.q + int64_t{end} * dim(), int64_t{kRowPadding} * dim(), 0.0f);
    Tile part = carried;
    part.q += int64_t{begin} * dim();
    part.o += int64_t{begin} * dim();
    part.m += begin;
    part.l += begin;
    part.rows = end - begin;
    begins[parts_used] = begin;
    used[parts_used] = i;
    parts[parts_used++] = {part, &spans[i].compact, 1, spans[i].scratch.kept_row_end + begin,
                           mask_row(spans[i].head, (spans[i].carried_row + begin) / kBlock),
                           spans[i].head};
  }
  attend(parts, parts_used, panels, logits(), thread);
  for (int i = 0; i < parts_used; ++i) {
    const LocalSpan& span = spans[used[i]];
    for (int r = 0; r < parts[i].tile.rows; ++r) {
      finish_row(parts[i].tile, r, span.head, span.scratch.kept_rows[begins[i] + r]);
    }
  }
}

void Attender::local_bundle(const Bundle& bundle, int64_t keep) const {
  const Panels all = identity(bundle.group, bundle.slot);
  LocalSpan spans[kBundle];
  const int count = bundle.count();
  for (int i = 0; i < count; ++i) spans[i] = start_span(bundle, i, keep);
  for (;;) {
    RowTile tiles[kBundle];
    LocalSpan* used[kBundle];
    int blocks = 0;
    for (LocalSpan& span : std::span(spans, static_cast<size_t>(count))) {
      if (span.done()) continue;
      tiles[blocks] = start_block(span);
      used[blocks++] = &span;
    }
    if (blocks == 0) break;
    attend(tiles, blocks, all, logits(), bundle.thread);
    for (int i = 0; i < blocks; ++i) finish_block(*used[i]);
  }
  const Panels compact = compacted(bundle.group, bundle.slot);
  finish_carried(spans, count, /*later=*/true, compact, bundle.thread);
  finish_carried(spans, count, /*later=*/false, compact, bundle.thread);
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
    for_bundles(pass, spans, [&](const Bundle& bundle) { local_bundle(bundle, keep); });
  });
}

}  // namespace tokensieve::cpu
