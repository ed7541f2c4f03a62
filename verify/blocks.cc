#include "verify/blocks.h"

#include <algorithm>
#include <cmath>

#include "core/tiles.h"
#include "verify/block_entries.h"

namespace tokensieve::verify {
namespace {

constexpr double kRounding = 1e-12;  // of a density: a mean over sequences

Status estimate_on_host(BlockCall& call, Executor& executor) {
  std::vector<std::byte> workspace(workspace_bytes(call.plan), std::byte{0xff});
  return estimate_blocks(call.plan, call.inputs(), call.mask(), workspace,
                         {.executor = &executor, .report = &call.report});
}

// Tiles up to the diagonal, of the golden's mask and ours.
struct Agreement {
  int64_t visible = 0, equal = 0, both = 0, any = 0;
  int64_t far = 0;  // differ, although far from their threshold
  std::string where;

  explicit Agreement(BlockCall& call) {
    const BlockEntry& entry = call.entry;
    for (int64_t m = 0; m < call.plan.num_masks; ++m) {
      const MaskRows mask = mask_rows(call.mask(), 0, m);
      for (int64_t t = 0; t < entry.tiles; ++t) {
        for (int64_t c = 0; c <= t; ++c) {
          const int64_t i = (m * entry.tiles + t) * entry.tiles + c;
          add(mask.get(t, c), entry.expected[i] != 0);
          if (mask.get(t, c) == (entry.expected[i] != 0)) continue;
          if (!(entry.margin[i] > kBf16Mass) || std::isinf(entry.margin[i])) continue;
          ++far;
          where = fmt::format("mask {}, tile ({}, {})", m, t, c);
        }
      }
    }
  }
  void add(bool own, bool golden) {
    ++visible;
    equal += own == golden;
    both += own && golden;
    any += own || golden;
  }
  double jaccard() const { return any > 0 ? double(both) / double(any) : 1.0; }
};

}  // namespace

BlockCall::BlockCall(const BlockGolden& from, const BlockEntry& of, const Plan& with)
    : golden(from), entry(of), plan(with) {
  if (entry.on_tokens) {
    indices = golden.tokens;
    count = golden.kept;
  }
  bits.assign(static_cast<size_t>(plan.num_masks * plan.row_tiles * plan.mask_words), ~0u);
}

AttentionInputs BlockCall::inputs() {
  AttentionInputs in = golden.inputs.view();
  if (entry.on_tokens) in.keep = {indices.data(), count, &count};
  if (!entry.scores.empty()) in.block_scores = entry.scores.data();
  return in;
}

Result<Check> check_blocks(const BlockGolden& golden, const BlockEntry& entry, Backend backend,
                           Isa isa, Executor& executor) {
  const Result<Plan> plan = golden.plan_of(
      entry, {.backend = backend, .isa = isa, .num_threads = executor.num_threads()});
  if (plan.status().code() == StatusCode::kUnsupported) return plan.status();
  if (!plan.ok()) return failed(entry.name.c_str(), plan.status());
  BlockCall call(golden, entry, *plan);
  const Status status =
      backend == Backend::kCuda ? estimate_on_cuda(call) : estimate_on_host(call, executor);
  if (!status.ok()) return failed(entry.name.c_str(), status);
  const Agreement a(call);
  std::string detail =
      fmt::format("{} of {} tiles equal, Jaccard {:.4f}", a.equal, a.visible, a.jaccard());
  if (a.far > 0) {
    detail += fmt::format("; {} differ far from their threshold, last {}", a.far, a.where);
  }
  double error = a.far > 0 ? kNoError : 1.0 - a.jaccard();
  if (entry.density >= 0) {
    const double off = std::abs(call.report.block_density / entry.density - 1.0);
    if (off > kRounding) error = std::max(error, off);
    detail += fmt::format(", density {:.4f} of {:.4f}", call.report.block_density, entry.density);
  }
  const double tolerance = !golden.exact               ? kBlockMiss
                           : backend == Backend::kRef ? 0.0
                                                      : kF32BlockMiss;
  return Check{entry.name, "1 - Jaccard", error, tolerance, detail};
}

}  // namespace tokensieve::verify
