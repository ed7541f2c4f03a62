// Attend on matrix tiles: items (one part against one block of keys) in turn. The softmax of an
// item runs beside P V of the one before and Q K^T of the next, so that the vector and the tile
// units of the core work at once: 12-22 % less time than one after the other.
#if defined(TOKENSIEVE_CPU_TILES_ATTEND_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_TILES_ATTEND_TILES_INL_H_
#undef TOKENSIEVE_CPU_TILES_ATTEND_TILES_INL_H_
#else
#define TOKENSIEVE_CPU_TILES_ATTEND_TILES_INL_H_
#endif

#include "cpu/tiles/softmax-inl.h"

TOKENSIEVE_BEFORE_TILES();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

template <bool kSplit, typename Matrix>
class TileAttend {
 public:
  explicit TileAttend(const TileCall& call)
      : call_(call), head_dim_(call.tiles[0].tile.dim), arena_(call.scratch),
        scratch_(arena_, head_dim_) {
    for (int i = 0; i < call.count; ++i) {
      for (int row = 0; row < call.tiles[i].tile.rows; row += kPartRows) start(call.tiles[i], row);
    }
  }

  void run() {
    Items items(keys_, count_);
    Item before, now, next;
    bool more = items.next(now);
    if (more) Steps(matrix_, {}, logits(now, 0)).finish();
    for (int t = 0; more; ++t, before = now, now = next) {
      more = items.next(next);
      Steps work(matrix_, values(before, t + 2), more ? logits(next, t + 1) : Half());
      // A part's softmax rescales the O to which its own products are being added.
      if (before.part == now.part) work.finish_values();
      if (now.exact) {
        work.finish();
        attend_exact(now);
      } else {
        softmax(now, scratch_.s[t % 3], work);
      }
      if (!more) Steps(matrix_, values(now, t), {}).finish();
    }
    for (int i = 0; i < count_; ++i) finish(scratch_.parts[i]);
  }

 private:
  using Half = Products<kSplit, Matrix>;
  using Steps = Work<kSplit, Matrix>;

  // Rows [row, row + 32) of a tile become a part.
  void start(const RowTile& from, int row) {
    const TileBlocks& blocks = call_.blocks;
    Part& part = scratch_.parts[count_];
    part.rows = std::min(kPartRows, from.tile.rows - row);
    part.q32 = from.tile.q + static_cast<int64_t>(row) * head_dim_;
    part.out = from.tile.o + static_cast<int64_t>(row) * head_dim_;
    part.m = from.tile.m + row;
    part.l = from.tile.l + row;
    part.row_end = from.row_end + row;
    const bool fits = pack_query_tiles(part.q32, part.rows, head_dim_, blocks.dims, part.qh,
                                       kSplit ? part.ql : nullptr);
    for (int r = 0; r < kPartRows; ++r) {
      float* o = part.o + r * blocks.dims;
      const int columns = r < part.rows ? head_dim_ : 0;
      std::copy_n(part.out + r * head_dim_, columns, o);
      std::fill(o + columns, o + blocks.dims, 0.0f);
    }
    keys_[count_++] = PartKeys(from, row, part.rows, blocks, !fits);
  }

  void finish(const Part& part) const {
    for (int r = 0; r < part.rows; ++r) {
      std::copy_n(part.o + r * call_.blocks.dims, head_dim_, part.out + r * head_dim_);
    }
  }

  // Products of an item, or none of one that runs in f32; S is number t of three in turn.
  Half logits(const Item& item, int t) const {
    if (item.exact) return {};
    return Half::logits(scratch_.parts[item.part], item, call_.blocks, scratch_.s[t % 3]);
  }
  Half values(const Item& item, int t) const {
    if (item.part < 0 || item.exact) return {};
    return Half::values(scratch_.parts[item.part], item, call_.blocks, scratch_.s[t % 3]);
  }

  void softmax(const Item& item, float* s, Steps& work) {
    const Part& part = scratch_.parts[item.part];
    for (int first = 0; first < part.rows; first += 4) {
      const int end = std::min(first + 4, part.rows);
      VF32 lanes[4];
      Seen seen[4];
      float max[4];
      for (int r = first; r < first + 4; ++r) {
        const int i = r - first;
        seen[i] = seen_by(item, part.row_end[std::min(r, end - 1)]);
        lanes[i] = prepare_row(s + r * kTileStride, seen[i], call_.logits.softcap);
      }
      maxima(lanes, max);
      for (int r = first; r < end; ++r) {
        work.run_to(r + 1, part.rows);
        softmax_row<kSplit, Matrix>(part, r, call_.blocks.dims, s + r * kTileStride,
                                    seen[r - first], max[r - first]);
      }
    }
    // Rows past the last take part in P V.
    const size_t unused = static_cast<size_t>(kPartRows - part.rows) * kTileStride;
    std::memset(s + part.rows * kTileStride, 0, unused * sizeof(float));
  }

  // The item in f32, panel by panel.
  void attend_exact(const Item& item) {
    const Part& part = scratch_.parts[item.part];
    Tile& tile = scratch_.exact;
    tile.rows = part.rows;
    std::fill_n(tile.q, (part.rows + kRowPadding) * head_dim_, 0.0f);
    std::copy_n(part.q32, part.rows * head_dim_, tile.q);
    std::copy_n(part.m, part.rows, tile.m);
    std::copy_n(part.l, part.rows, tile.l);
    for (int r = 0; r < part.rows; ++r) {
      std::copy_n(part.o + r * call_.blocks.dims, head_dim_, tile.o + r * head_dim_);
    }
    for (int64_t key = item.begin; key < item.end;) {
      const int64_t panel = key / kPanelKeys * kPanelKeys;
      const int64_t end = std::min(item.end, panel + kPanelKeys);
      attend_panel(panel, {key - panel, end - panel}, part);
      key = end;
    }
    std::copy_n(tile.m, part.rows, part.m);
    std::copy_n(tile.l, part.rows, part.l);
    for (int r = 0; r < part.rows; ++r) {
      std::copy_n(tile.o + r * head_dim_, head_dim_, part.o + r * call_.blocks.dims);
    }
  }

  void attend_panel(int64_t first, const KeyRange& range, const Part& part) {
    call_.exact.pack_panel(call_.k, call_.v, first, static_cast<int>(range.end), head_dim_,
                           scratch_.kt, scratch_.v);
    for (int r = 0; r < part.rows; ++r) {
      const int64_t end = std::clamp<int64_t>(part.row_end[r] - first, 0, range.end);
      scratch_.row_end[r] = static_cast<int32_t>(end);
    }
    call_.exact.attend(scratch_.exact, {scratch_.kt, scratch_.v, {&range, 1}, scratch_.row_end},
                       call_.logits);
  }

  const TileCall& call_;
  int head_dim_;
  Arena arena_;
  TileScratch scratch_;
  PartKeys keys_[kParts];
  int count_ = 0;
  Matrix matrix_;
};

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
