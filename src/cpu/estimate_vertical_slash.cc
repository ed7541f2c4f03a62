// MInference: the newest rows attend to everything; their mass says which columns and which
// distances of (query, key) pairs to visit.
#include <algorithm>

#include "core/budget.h"
#include "cpu/arena.h"
#include "cpu/estimate.h"
#include "cpu/score.h"

namespace tokensieve::cpu {
namespace {

struct Buffers {
  // A head's choice, [threads] each.
  float* ranked;       // [keys]: scratch
  int32_t* distances;  // [keys]: chosen, ascending
  uint8_t* visited;    // [key_tiles + 2]: by tiles before the diagonal's last
  ScoreBuffers probe;
  float* mass;     // [heads at once][keys] by key
  float* slashes;  // [heads at once][keys] by distance
};

// What grows with length first; the rest is bounded by kPhaseBytes.
Buffers take_buffers(Arena& arena, const Plan& plan, const Kernels& kernels) {
  const int64_t keys = plan.shape.seqlen_kv, threads = plan.options.num_threads;
  Buffers buffers;
  buffers.ranked = arena.take<float>(threads * keys);
  buffers.distances = arena.take<int32_t>(threads * keys);
  buffers.visited = arena.take<uint8_t>(threads * (tiles_of(keys) + 2));
  buffers.probe = take_probe(arena, plan, kernels.panel_cols, kVerticalSlashProbe);
  const int64_t heads = heads_at_once(buffers.probe, kVerticalSlashProbe, kernels.panel_cols);
  buffers.mass = arena.take<float>(heads * keys);
  buffers.slashes = arena.take<float>(heads * keys);
  return buffers;
}

class VerticalSlash {
 public:
  VerticalSlash(Context& context, int64_t batch, int64_t keep)
      : c_(context), batch_(batch), keep_(keep) {
    Arena arena(c_.layout.estimate);
    buffers_ = take_buffers(arena, c_.plan, c_.kernels);
    keys_ = tile_grid(c_.plan, c_.kept_of(0, keep)).keys;
  }

  void run() {
    Probe probe = {.stage = Stage::kEstimate,
                   .batch = batch_,
                   .keep = keep_,
                   .keys = keys_,
                   .rows = kVerticalSlashProbe,
                   .scale = estimate_scale(c_.plan),
                   .buffers = buffers_.probe,
                   .columns = keys_,
                   .mass = buffers_.mass,
                   .slashes = buffers_.slashes};
    const int64_t heads = c_.plan.shape.num_q_heads;
    const int64_t at_once = heads_at_once(c_, probe);
    for (int64_t head = 0; head < heads; head += at_once) {
      probe.first_head = head;
      const int64_t count = std::min(at_once, heads - head);
      run_probe(c_, probe, count);
      c_.parallel(Stage::kEstimate, count,
                  [&](int64_t i, int thread) { choose_lines(head + i, i, thread); });
    }
  }

 private:
  void choose_lines(int64_t head, int64_t in_pass, int thread) const {
    c_.layout.columns.count[head] = 0;
    const auto size = static_cast<size_t>(keys_);
    const std::span<float> vertical(buffers_.mass + in_pass * keys_, size);
    const std::span<float> slash(buffers_.slashes + in_pass * keys_, size);
    if (!all_finite(vertical) || !all_finite(slash)) return fail(c_, head);
    const int32_t* own = c_.in.block_sizes ? c_.in.block_sizes + 2 * head : nullptr;
    const VerticalSlashSizes sizes = vertical_slash_sizes(c_.plan.blocks, own, keys_);
    const ColumnLists& columns = c_.layout.columns;
    top_lines(vertical, sizes.verticals, kForcedVerticals, thread,
              columns.lists + head * columns.capacity);
    columns.count[head] = static_cast<int32_t>(sizes.verticals);
    int32_t* distances = buffers_.distances + thread * c_.plan.shape.seqlen_kv;
    top_lines(slash, sizes.slashes, kForcedSlashes, thread, distances);
    visit({distances, static_cast<size_t>(sizes.slashes)}, head, thread);
  }

  // The `count` largest, the first `forced` before all others, ascending. Values become units of
  // 2^-48, which floats hold exactly.
  void top_lines(std::span<float> mass, int64_t count, int64_t forced, int thread,
                 int32_t* lines) const {
    for (float& x : mass) x = static_cast<float>(fixed_point(x));
    const std::span<float> scratch(buffers_.ranked + thread * c_.plan.shape.seqlen_kv, mass.size());
    top_tokens(mass, count, std::min(forced, count), false, scratch, lines);
  }

  // Row tiles begin alike within key tiles, so that all but a last one that is cut off have the
  // same tiles before their diagonal.
  void visit(std::span<const int32_t> distances, int64_t head, int thread) const {
    const TileGrid grid = tile_grid(c_.plan, c_.kept_of(head, keep_));
    const int64_t whole = grid.rows() / kBlock;
    visit_rows(grid, 0, whole, distances, head, thread);
    visit_rows(grid, whole, grid.row_tiles(), distances, head, thread);
  }

  // Row tiles [begin, end) of one height.
  void visit_rows(const TileGrid& grid, int64_t begin, int64_t end,
                  std::span<const int32_t> distances, int64_t head, int thread) const {
    if (begin == end) return;
    const int64_t size = tiles_of(c_.plan.shape.seqlen_kv) + 2;
    uint8_t* visited = buffers_.visited + thread * size;
    std::fill_n(visited, size, uint8_t{0});
    // Of the newest row tile, whose lines reach farthest back; before key 0 there is nothing.
    const int64_t first = grid.row_begin(end - 1), last = grid.row_end(end - 1) - 1;
    const int64_t diagonal = last / kBlock;
    for (const int64_t distance : distances) {
      if (distance > last) break;
      visited[diagonal - (last - distance) / kBlock] = 1;
      if (distance <= first) visited[diagonal - (first - distance) / kBlock] = 1;
    }
    const MaskRows mask = c_.mask_of(head);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t own = diagonal - (end - 1 - t);
      for (int64_t k = 0; k <= own; ++k) {
        if (visited[own - k] != 0) mask.set(t, k);
      }
    }
  }

  Context& c_;
  int64_t batch_, keep_;
  Buffers buffers_;
  int64_t keys_;
};

}  // namespace

size_t vertical_slash_bytes(const Plan& plan, const Kernels& kernels) {
  Arena arena(nullptr);
  take_buffers(arena, plan, kernels);
  return arena.used();
}

void estimate_vertical_slash(Context& context, int64_t batch, int64_t keep) {
  VerticalSlash(context, batch, keep).run();
}

}  // namespace tokensieve::cpu
