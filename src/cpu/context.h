// What the drivers of one run share: the plan, the caller's tensors, the workspace, the executor.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "core/report.h"
#include "core/tiles.h"
#include "cpu/kernels.h"
#include "cpu/layout.h"
#include "cpu/tiles/tiles.h"
#include "tokensieve/attention.h"

namespace tokensieve::cpu {

inline Executor& executor_of(const RunOptions& options) {
  return options.executor ? *options.executor : serial_executor();
}

inline char* row_at(const TensorView& x, int64_t batch, int64_t seq, int64_t head) {
  const int64_t at = batch * x.strides[0] + seq * x.strides[1] + head * x.strides[2];
  return static_cast<char*>(x.data) + at * static_cast<int64_t>(dtype_size(x.dtype));
}

struct Context {
  const Plan& plan;
  const Kernels& kernels;
  const TileKernels* tiles;  // null: products are exact
  Executor& executor;
  const RunOptions& options;
  const AttentionInputs& in;
  const AttentionOutputs& out;
  Layout layout;
  BlockMask mask{};  // of the sequence at hand; no bits: every tile is visited
  ReportSum sum{};
  RunReport report{};
  std::atomic<bool> cancelled{false};
  std::atomic_flag asking = ATOMIC_FLAG_INIT;  // a thread is in the caller's cancel callback
  bool gather_failed = false;

  ThreadScratch scratch(int thread, int i = 0) const {
    return thread_scratch(layout, plan.shape.head_dim, thread, i);
  }
  std::byte* tile_scratch(int thread) const {
    return layout.tiles + TileScratch::bytes(plan.shape.head_dim) * static_cast<size_t>(thread);
  }
  Rows rows(const TensorView& x, int64_t batch, int64_t head) const {
    return {.base = row_at(x, batch, 0, head),
            .stride_bytes = x.strides[1] * static_cast<int64_t>(dtype_size(x.dtype)),
            .dtype = x.dtype};
  }
  float q_scale() const {
    // With a softcap the kernel wants 2 log2(e) x, x = logit / softcap (math-inl.h, cap_logit).
    const AttentionShape& s = plan.shape;
    return s.softcap > 0.0f ? s.sm_scale / s.softcap * 2.0f * kLog2E : s.sm_scale * kLog2E;
  }
  float softcap_log2() const { return plan.shape.softcap * kLog2E; }
  int64_t q_offset() const { return plan.shape.seqlen_kv - plan.shape.seqlen_q; }

  // Rows by position among the tokens of `list`, or among all. Those of q begin with the first
  // query.
  Rows q_rows(int64_t batch, int64_t head, const int32_t* list) const {
    Rows q = rows(in.q, batch, head);
    q.base -= q_offset() * q.stride_bytes;
    q.indices = list;
    return q;
  }
  Rows k_rows(int64_t batch, int64_t q_head, const int32_t* list) const {
    const AttentionShape& s = plan.shape;
    Rows k = rows(in.k, batch, q_head * s.num_kv_heads / s.num_q_heads);
    k.indices = list;
    k.cells = in.kv_indices ? in.kv_indices + batch * s.seqlen_kv : nullptr;
    return k;
  }

  // The kept tokens of a query head where sets keep `keep` prefix tokens; -1: none, it runs dense.
  std::span<const int32_t> kept_of(int64_t q_head, int64_t keep) const {
    if (keep < 0) return {};
    const int64_t set = q_head * plan.num_sets / plan.shape.num_q_heads;
    return {layout.indices + set * layout.keep_capacity,
            static_cast<size_t>(keep + plan.suffix_len())};
  }
  int64_t heads_per_mask() const { return plan.shape.num_q_heads / plan.num_masks; }
  // kVerticalSlash: the head's columns in the coordinates of its mask.
  std::span<const int32_t> columns_of(int64_t q_head) const {
    const ColumnLists& columns = layout.columns;
    if (columns.capacity == 0) return {};
    return {columns.lists + q_head * columns.capacity, static_cast<size_t>(columns.count[q_head])};
  }
  MaskRows mask_of(int64_t q_head) const { return mask_rows(mask, 0, q_head / heads_per_mask()); }

  // Whether to stop: asks the caller's callback, one thread at a time and never after a yes. While
  // another thread asks, its answer is on the way.
  bool should_stop() {
    if (cancelled.load(std::memory_order_relaxed)) return true;
    if (options.should_cancel == nullptr || asking.test_and_set(std::memory_order_acquire)) {
      return false;
    }
    const bool stop = cancelled.load(std::memory_order_relaxed) ||
                      options.should_cancel(options.cancel_context);
    if (stop) cancelled.store(true, std::memory_order_relaxed);
    asking.clear(std::memory_order_release);
    return stop;
  }

  // Runs the tasks of one stage, timed. Whoever takes a task asks first whether to go on: the
  // caller's own thread may get none for long.
  template <typename F>
  void parallel(Stage stage, int64_t count, F&& task) {
    timed(stage, [&] {
      executor.parallel_for(count, [&](int64_t index, int thread) {
        if (!should_stop()) task(index, thread);
      });
    });
  }

  template <typename F>
  void timed(Stage stage, F&& body) {
    const auto start = std::chrono::steady_clock::now();
    body();
    report.stage_ns[static_cast<int>(stage)] +=
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() -
                                                             start)
            .count();
  }
};

// Stage score of one sequence: fills layout.own_score.
void score_sequence(Context& context, int64_t batch);

// Stages budget and select of one sequence, from layout.token_score, of which other ranks' rows are
// gathered first. Returns kept prefix tokens, or -1 with the reason to run dense.
// indices [num_sets][keep_capacity].
int64_t select_sequence(Context& context, int32_t* indices, int64_t keep_capacity,
                        DenseReason* reason);

// Stage estimate of one sequence: its block masks, given or estimated, which context.mask then is.
// keep: of select_sequence, -1 for dense. Returns their density.
double mask_sequence(Context& context, int64_t batch, int64_t keep, DenseReason reason);

// Attend (with compact and scatter fused) of one sequence.
void attend_dense(Context& context, int64_t batch);
void attend_sparse(Context& context, int64_t batch, int64_t keep);

// Stages compact and scatter by themselves, for engines that bring their own attend.
Status compact(const Plan& plan, const TensorView& x, const KeepSet& keep,
               const TensorView& compacted, const RunOptions& options);
Status scatter(const Plan& plan, const TensorView& compacted, const KeepSet& keep,
               const TensorView& out, const RunOptions& options);

}  // namespace tokensieve::cpu
