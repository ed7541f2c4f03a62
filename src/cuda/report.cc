#include "cuda/report.h"

#include <cuda_runtime_api.h>

#include <limits>
#include <vector>

#include "core/plan.h"
#include "core/report.h"
#include "cuda/blocks/walk.h"
#include "cuda/checks.h"
#include "cuda/layout.h"

namespace tokensieve::cuda {
namespace {

// What a finished run left on the device.
struct Counts {
  std::vector<int32_t> keep;        // [batch] of sparse plans
  std::vector<int32_t> cu_seqlens;  // packed: of q, then of kv
  std::vector<int2> block_visits;   // as Blocks::visits
};

// Of the block masks of sequence b.
double density_of(const Plan& plan, const Counts& counts, int64_t b) {
  const int64_t rows = plan.shape.num_q_heads * plan.row_tiles;
  int64_t visited = 0, visible = 0;
  for (int64_t i = b * rows; i < (b + 1) * rows && !counts.block_visits.empty(); ++i) {
    const int2 row = counts.block_visits[static_cast<size_t>(i)];
    visited += ceil_div(row.x, kBlock / kVisitKeys);
    visible += row.y;
  }
  return visible > 0 ? static_cast<double>(visited) / static_cast<double>(visible) : 1.0;
}

RunReport full_report(const Plan& plan, const Counts& counts) {
  ReportSum sum;
  for (int64_t b = 0; b < plan.shape.batch; ++b) {
    Plan one = plan;
    if (plan.shape.packed) {
      const int32_t* q = &counts.cu_seqlens[static_cast<size_t>(b)];
      const int32_t* kv = q + plan.shape.batch + 1;
      if (q[1] == q[0]) continue;
      one.shape.seqlen_q = q[1] - q[0];
      one.shape.seqlen_kv = kv[1] - kv[0];
      one.prefix_len = one.shape.seqlen_kv - suffix_of(plan.select, one.shape.seqlen_q);
    }
    const double density = density_of(plan, counts, b);
    if (plan.path == Path::kDense) {
      sum.add(one, 0, plan.reason, density);
      continue;
    }
    const int32_t keep = counts.keep[static_cast<size_t>(b)];
    const bool dense = keep == one.shape.seqlen_kv;
    sum.add(one, keep - one.suffix_len(),
            dense ? DenseReason::kDecidedOnDevice : DenseReason::kNone, density);
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
  if (plan.blocks.pattern != BlockPattern::kNone) {
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
  Counts counts;
  const auto fetch = [&]<typename T>(const T* from, int64_t size, std::vector<T>& to) {
    to.resize(static_cast<size_t>(size));
    return launched("read of counts", cudaMemcpyAsync(to.data(), from, to.size() * sizeof(T),
                                                      cudaMemcpyDeviceToHost, queue));
  };
  const AttentionShape& s = plan.shape;
  const bool masked = plan.blocks.pattern != BlockPattern::kNone;
  if (plan.path == Path::kSparse) {
    TOKENSIEVE_RETURN_IF_ERROR(fetch(layout.count, s.batch, counts.keep));
  }
  if (keeps_lengths(plan)) {
    TOKENSIEVE_RETURN_IF_ERROR(fetch(layout.cu_seqlens, 2 * (s.batch + 1), counts.cu_seqlens));
  }
  if (masked) {
    TOKENSIEVE_RETURN_IF_ERROR(fetch(layout.block_visits, s.batch * s.num_q_heads * plan.row_tiles,
                                     counts.block_visits));
  }
  TOKENSIEVE_RETURN_IF_ERROR(launched("run", cudaStreamSynchronize(queue)));
  report = plan.path == Path::kSparse || masked ? full_report(plan, counts) : early_report(plan);
  return {};
}

}  // namespace tokensieve::cuda
