#include "cuda/report.h"

#include <cuda_runtime_api.h>

#include <limits>
#include <numeric>
#include <vector>

#include "core/plan.h"
#include "core/report.h"
#include "core/work.h"
#include "cuda/blocks/walk.h"
#include "cuda/checks.h"
#include "cuda/layout.h"
#include "cuda/rows/rows.h"

namespace tokensieve::cuda {
namespace {

// What a finished run left in the workspace.
struct Left {
  std::vector<int32_t> count;       // [batch] of sparse plans
  std::vector<int32_t> cu_seqlens;  // packed: [2, batch + 1] of q, of kv
  std::vector<int64_t> far_pairs;   // local fill: [batch, num_sets]
  std::vector<int2> block_visits;   // block masks: [batch, num_q_heads, row_tiles]
};

template <typename T>
Status fetch(const T* from, int64_t size, std::vector<T>& to, cudaStream_t stream) {
  to.resize(static_cast<size_t>(size));
  return launched("read of counts", cudaMemcpyAsync(to.data(), from, to.size() * sizeof(T),
                                                    cudaMemcpyDeviceToHost, stream));
}

Status fetch_far_pairs(const Plan& plan, const Layout& layout, cudaStream_t stream, Left& left) {
  if (plan.path == Path::kDense || !has_far_pairs(plan.select)) return {};
  const int64_t batch = plan.shape.batch;
  Sequences sequences = sequences_of(plan, {});
  if (plan.shape.packed) {
    sequences.cu_seqlens_q = layout.cu_seqlens;
    sequences.cu_seqlens_kv = layout.cu_seqlens + batch + 1;
  }
  const FarPairsParams params = {
      .sequences = sequences,
      .selection = own_selection(plan, layout),
      .local = {.window = plan.select.local_window, .sink_tokens = plan.select.sinks},
      .far_pairs = layout.far_pairs};
  TOKENSIEVE_RETURN_IF_ERROR(launched("count of pairs", count_far_pairs(params, stream)));
  return fetch(layout.far_pairs, batch * plan.num_sets, left.far_pairs, stream);
}

// Enqueues the reads.
Status fetch_left(const Plan& plan, const Layout& layout, cudaStream_t stream, Left& left) {
  const int64_t batch = plan.shape.batch;
  if (plan.path == Path::kSparse) {
    TOKENSIEVE_RETURN_IF_ERROR(fetch(layout.count, batch, left.count, stream));
  }
  if (keeps_lengths(plan)) {
    TOKENSIEVE_RETURN_IF_ERROR(
        fetch(layout.cu_seqlens, 2 * (batch + 1), left.cu_seqlens, stream));
  }
  if (has_blocks(plan)) {
    TOKENSIEVE_RETURN_IF_ERROR(fetch(layout.block_visits,
                                     batch * plan.shape.num_q_heads * plan.row_tiles,
                                     left.block_visits, stream));
  }
  return fetch_far_pairs(plan, layout, stream, left);
}

// Of the block masks of sequence b.
double density_of(const Plan& plan, const Left& left, int64_t b) {
  const int64_t rows = plan.shape.num_q_heads * plan.row_tiles;
  int64_t visited = 0, visible = 0;
  for (int64_t i = b * rows; i < (b + 1) * rows && !left.block_visits.empty(); ++i) {
    const int2 row = left.block_visits[static_cast<size_t>(i)];
    visited += ceil_div(row.x, kBlock / kVisitKeys);
    visible += row.y;
  }
  return visible > 0 ? static_cast<double>(visited) / static_cast<double>(visible) : 1.0;
}

// A sequence's plan; packed: with its own lengths.
Plan plan_of_sequence(const Plan& plan, const Left& left, int64_t b) {
  Plan one = plan;
  if (!plan.shape.packed) return one;
  const int32_t* q = &left.cu_seqlens[static_cast<size_t>(b)];
  const int32_t* kv = q + plan.shape.batch + 1;
  one.shape.seqlen_q = q[1] - q[0];
  one.shape.seqlen_kv = kv[1] - kv[0];
  one.prefix_len = one.shape.seqlen_kv - suffix_of(plan.select, one.shape.seqlen_q);
  return one;
}

RunReport full_report(const Plan& plan, const Left& left) {
  ReportSum sum;
  for (int64_t b = 0; b < plan.shape.batch; ++b) {
    const Plan one = plan_of_sequence(plan, left, b);
    if (one.shape.seqlen_q == 0) continue;
    const double density = density_of(plan, left, b);
    if (plan.path == Path::kDense) {
      sum.add_dense(one, plan.reason, density);
      continue;
    }
    const int32_t count = left.count[static_cast<size_t>(b)];
    if (count == one.shape.seqlen_kv) {
      sum.add_dense(one, DenseReason::kDecidedOnDevice, density);
      continue;
    }
    const int64_t keep = count - one.suffix_len();
    int64_t far = 0;
    if (!left.far_pairs.empty()) {
      const auto sets = left.far_pairs.begin() + b * plan.num_sets;
      far = std::accumulate(sets, sets + plan.num_sets, int64_t{0});
    }
    sum.add_sparse(one, keep, counted_pairs(one, keep, far), density);
  }
  RunReport report;
  sum.finish(report);
  return report;
}

}  // namespace

RunReport early_report(const Plan& plan) {
  RunReport report;
  report.path = plan.path;
  report.reason = plan.reason;
  if (plan.path == Path::kSparse || plan.shape.packed) {
    report.keep_count = -1;
    report.keep_ratio = report.work = std::numeric_limits<double>::quiet_NaN();
  } else {
    report.keep_count = plan.shape.batch * plan.shape.seqlen_kv;
    report.work = 1.0;
  }
  if (has_blocks(plan)) {
    report.work = report.block_density = std::numeric_limits<double>::quiet_NaN();
  }
  return report;
}

Status read_report(const Plan& plan, std::span<std::byte> workspace, void* stream,
                   RunReport& report) {
  const Result<Device> device = current_device();
  if (!device.ok()) return device.status();
  Layout layout;
  TOKENSIEVE_RETURN_IF_ERROR(lay_out(plan, device->num_multiprocessors, workspace, layout));
  const auto queue = static_cast<cudaStream_t>(stream);
  Left left;
  TOKENSIEVE_RETURN_IF_ERROR(fetch_left(plan, layout, queue, left));
  TOKENSIEVE_RETURN_IF_ERROR(launched("run", cudaStreamSynchronize(queue)));
  const bool early = plan.path == Path::kDense && !has_blocks(plan);
  report = early ? early_report(plan) : full_report(plan, left);
  return {};
}

}  // namespace tokensieve::cuda
