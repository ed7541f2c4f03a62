// What the drivers of one run share: the plan, the caller's tensors, the workspace, the executor.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

#include "cpu/kernels.h"
#include "tokensieve/attention.h"

namespace tokensieve::cpu {

// Hands out 64-byte aligned arrays of a buffer; with a null base it only measures.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {
    if (base != nullptr) used_ = (kAlign - reinterpret_cast<uintptr_t>(base) % kAlign) % kAlign;
  }

  template <typename T>
  T* take(int64_t count) {
    T* at = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return at;
  }
  size_t used() const { return used_; }
  void rewind(size_t used) { used_ = used; }

  static constexpr size_t kAlign = 64;

 private:
  std::byte* base_;
  size_t used_ = 0;
};

// Scratch of one thread: two tiles that share S, and a row of limits.
struct ThreadScratch {
  Tile tile;       // of the task's query rows
  Tile kept;       // local fill: its kept rows, carried from the local to the compact pass
  int32_t* row_end;
  int32_t* kept_row_end;
  int32_t* kept_rows;  // query row of each kept row
};

// The attend phase packs some panel groups at a time: one per kv head, or one per query head when
// every query head has its own set.
struct PanelGroup {
  int32_t kv_head;
  int32_t set;
  int32_t q_head;   // first
  int32_t q_heads;  // how many share the panels
};

// Buffers of the three phases; the phases follow one another and share memory.
struct ScoreBuffers {
  float* qt;      // [units][dim][cols]
  float* e;       // [units][unit_keys][cols]
  float* m;       // [units][blocks][cols]
  float* l;       // [units][blocks][cols], then the weights
  int64_t units;      // (query head, cols queries) pairs at once
  int64_t unit_keys;  // seqlen_kv, padded to whole panels
};
struct SelectBuffers {
  float* pooled;    // [layer_heads][prefix_len]
  double* mean;     // [prefix_len]
  float* scratch;   // [threads][prefix_len]
};
struct PanelBuffers {
  float* identity;       // [groups][padded seqlen_kv][dim] x 2 (K^T, then V); dense and local
  float* compact;        // [groups][padded kept][dim] x 2
  int64_t identity_keys;  // padded to whole panels
  int64_t compact_keys;
  int64_t groups;
};

struct Layout {
  std::byte* threads;
  float* token_score;  // [layer_heads][prefix_len] of one sequence
  float* own_score;    // its rows of this rank: [num_q_heads][prefix_len]
  int32_t* indices;    // [num_sets][capacity] of one sequence
  int32_t* spans;      // [num_sets][blocks + 1] of one sequence: local fill's task boundaries
  int64_t capacity;
  ScoreBuffers score;
  SelectBuffers select;
  PanelBuffers panels;
  size_t bytes;
};

int64_t query_blocks(const Plan& plan, int panel_cols);
int64_t num_blocks(const Plan& plan);  // 64-row blocks of the sequence
Layout make_layout(const Plan& plan, const Kernels& kernels, std::byte* base);

struct Context {
  const Plan& plan;
  const Kernels& kernels;
  Executor& executor;
  const RunOptions& options;
  const AttentionInputs& in;
  const AttentionOutputs& out;
  Layout layout;
  RunReport report;
  std::atomic<bool> cancelled{false};
  bool gather_failed = false;

  ThreadScratch scratch(int thread) const;
  Rows rows(const TensorView& x, int64_t batch, int64_t head) const;
  float q_scale() const;
  float softcap_log2() const { return plan.shape.softcap * kLog2E; }
  int64_t q_offset() const { return plan.shape.seqlen_kv - plan.shape.seqlen_q; }

  // Runs the tasks of one stage, timed; the caller's cancel callback is asked between tasks, by
  // thread 0 only.
  template <typename F>
  void parallel(Stage stage, int64_t count, F&& task) {
    timed(stage, [&] {
      executor.parallel_for(count, [&](int64_t index, int thread) {
        if (cancelled.load(std::memory_order_relaxed)) return;
        if (thread == 0 && options.should_cancel != nullptr &&
            options.should_cancel(options.cancel_context)) {
          cancelled.store(true, std::memory_order_relaxed);
          return;
        }
        task(index, thread);
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
// gathered first. Returns kept prefix tokens,
// or -1 with the reason to run dense. indices [num_sets][capacity].
int64_t select_sequence(Context& context, int32_t* indices, int64_t capacity,
                        DenseReason* reason);

// Attend (with compact and scatter fused) of one sequence.
void attend_dense(Context& context, int64_t batch);
void attend_sparse(Context& context, int64_t batch, int64_t keep);

}  // namespace tokensieve::cpu
