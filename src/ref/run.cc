// Backend::kRef: the oracle behind the backend table. Unlike real backends it allocates freely.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/backend_table.h"
#include "core/plan.h"
#include "core/report.h"
#include "ref/attend.h"
#include "ref/blocks.h"
#include "ref/compact.h"
#include "ref/elements.h"
#include "ref/oracle.h"
#include "ref/scatter.h"
#include "ref/score.h"
#include "ref/select.h"

namespace tokensieve {
namespace ref {
namespace {

int64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// Adds the wall time of its scope to a stage of the report.
class StageTimer {
 public:
  StageTimer(RunReport* report, Stage stage)
      : report_(report), stage_(static_cast<int>(stage)), begin_(now_ns()) {}
  ~StageTimer() {
    if (report_) report_->stage_ns[stage_] += now_ns() - begin_;
  }

 private:
  RunReport* report_;
  int stage_;
  int64_t begin_;
};

Executor& executor_of(const RunOptions& options) {
  return options.executor ? *options.executor : serial_executor();
}

// Fills all but the times.
// densities: of the sequences' block masks; none for stages that attend to nothing.
void fill_report(const Plan& plan, const std::vector<Selection>& sequences,
                 std::span<const double> densities, RunReport& report) {
  ReportSum sum;
  for (size_t b = 0; b < sequences.size(); ++b) {
    const Selection& sequence = sequences[b];
    const double density = densities.empty() ? 1.0 : densities[b];
    if (sequence.dense()) {
      sum.add_dense(plan, sequence.reason, density);
    } else {
      sum.add_sparse(plan, sequence.budget.keep, visible_pairs(plan, sequence), density);
    }
  }
  sum.finish(report);
}

Selection given_sets(const Plan& plan, const KeepSet& keep, int64_t b) {
  Selection result;
  const int64_t count = keep.count[b];
  if (count == plan.shape.seqlen_kv) {
    result.reason = DenseReason::kNothingToDrop;
    return result;
  }
  result.budget.keep = count - plan.suffix_len();
  for (int64_t set = 0; set < plan.num_sets; ++set) {
    const int32_t* row = keep.indices + (b * plan.num_sets + set) * keep.capacity;
    result.kept.emplace_back(row, row + count);
  }
  return result;
}

// [layer_heads, prefix_len]; empty if the caller's all_gather failed.
std::vector<double> score_of_layer(const Plan& plan, const AttentionInputs& inputs, int64_t b,
                                   const RunOptions& options) {
  const std::vector<double> own = score(plan, inputs, b, executor_of(options));
  if (plan.options.num_ranks == 1) return own;
  std::vector<double> all(own.size() * plan.options.num_ranks);
  std::copy(own.begin(), own.end(), all.begin() + first_head(plan) * plan.prefix_len);
  const bool gathered = options.all_gather(options.gather_context, all.data(),
                                           own.size() * sizeof(double), options.stream);
  return gathered ? all : std::vector<double>();
}

Masks timed_masks(const Plan& plan, const AttentionInputs& inputs, int64_t b,
                  const Selection& selection, RunReport* report) {
  const StageTimer timer(report, Stage::kEstimate);
  return block_masks(plan, inputs, b, selection);
}

Status gather_failed() {
  return Status::error(StatusCode::kInternal, "all_gather failed: it returned an error");
}

}  // namespace

Selection select_sequence(const Plan& plan, const AttentionInputs& inputs, int64_t b,
                          const RunOptions& options) {
  Selection result;
  result.reason = plan.reason;
  if (plan.path == Path::kDense) return result;
  if (inputs.keep.indices != nullptr) return given_sets(plan, inputs.keep, b);
  {
    const StageTimer timer(options.report, Stage::kScore);
    result.token_score = score_of_layer(plan, inputs, b, options);
  }
  if (result.token_score.empty()) {
    result.gather_failed = true;
    return result;
  }
  const auto finite = [](double x) { return std::isfinite(x); };
  if (!std::all_of(result.token_score.begin(), result.token_score.end(), finite)) {
    result.reason = DenseReason::kNonFiniteScore;
    return result;
  }
  {
    const StageTimer timer(options.report, Stage::kBudget);
    result.budget = budget(plan, result.token_score);
    result.reason = dense_after_budget(plan, result.budget.keep);
  }
  if (result.dense()) return result;
  const StageTimer timer(options.report, Stage::kSelect);
  result.kept = select(plan, result.budget.pooled, result.budget.keep);
  return result;
}

Status run_oracle(const Plan& plan, const AttentionInputs& inputs, const RunOptions& options,
                  OracleResult& result) {
  const AttentionShape& s = plan.shape;
  result = {};
  RunOptions timed = options;
  timed.report = &result.report;
  const int64_t rows = s.seqlen_q * s.num_q_heads;
  result.out.resize(static_cast<size_t>(s.batch * rows * s.head_dim));
  result.lse.resize(static_cast<size_t>(s.batch * rows));
  for (int64_t b = 0; b < s.batch; ++b) {
    result.sequences.push_back(select_sequence(plan, inputs, b, timed));
    if (result.sequences.back().gather_failed) return gather_failed();
    const Masks masks = timed_masks(plan, inputs, b, result.sequences.back(), timed.report);
    result.densities.push_back(masks.density);
    const StageTimer timer(timed.report, Stage::kAttend);
    TOKENSIEVE_RETURN_IF_ERROR(attend(plan, inputs, b, result.sequences.back(), masks, timed,
                                      &result.out[b * rows * s.head_dim], &result.lse[b * rows]));
  }
  fill_report(plan, result.sequences, result.densities, result.report);
  return {};
}

namespace {

Status prepare(Plan& plan) {
  plan.workspace = 0;
  return {};
}

Status run(const Plan& plan, const AttentionInputs& inputs, const AttentionOutputs& outputs,
           std::span<std::byte>, const RunOptions& options) {
  const AttentionShape& s = plan.shape;
  OracleResult result;
  TOKENSIEVE_RETURN_IF_ERROR(run_oracle(plan, inputs, options, result));
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t i = 0; i < s.seqlen_q; ++i) {
      for (int64_t h = 0; h < s.num_q_heads; ++h) {
        const int64_t from = ((b * s.seqlen_q + i) * s.num_q_heads + h) * s.head_dim;
        const int64_t to = row_offset(outputs.out, b, i, h);
        for (int64_t d = 0; d < s.head_dim; ++d) store(outputs.out, to + d, result.out[from + d]);
      }
    }
  }
  if (outputs.lse) std::copy(result.lse.begin(), result.lse.end(), outputs.lse);
  if (options.report) *options.report = result.report;
  return {};
}

Status score_op(const Plan& plan, const AttentionInputs& inputs, float* token_score,
                std::span<std::byte>, const RunOptions& options) {
  for (int64_t b = 0; b < plan.shape.batch; ++b) {
    const std::vector<double> scores = score(plan, inputs, b, executor_of(options));
    token_score = std::copy(scores.begin(), scores.end(), token_score);
  }
  return {};
}

Status select_tokens(const Plan& plan, const AttentionInputs& inputs, const KeepSet& keep,
                     std::span<std::byte>, const RunOptions& options) {
  RunReport report;
  RunOptions timed = options;
  timed.report = &report;
  std::vector<Selection> sequences;
  for (int64_t b = 0; b < plan.shape.batch; ++b) {
    if (options.should_cancel && options.should_cancel(options.cancel_context)) {
      return Status::error(StatusCode::kCancelled, "the caller cancelled select_tokens");
    }
    sequences.push_back(select_sequence(plan, inputs, b, timed));
    const Selection& chosen = sequences.back();
    if (chosen.gather_failed) return gather_failed();
    keep.count[b] = plan.shape.seqlen_kv;
    for (size_t set = 0; set < chosen.kept.size(); ++set) {
      keep.count[b] = static_cast<int64_t>(chosen.kept[set].size());
      std::copy(chosen.kept[set].begin(), chosen.kept[set].end(),
                keep.indices + (b * plan.num_sets + set) * keep.capacity);
    }
  }
  fill_report(plan, sequences, {}, report);
  if (options.report) *options.report = report;
  return {};
}

Status estimate_blocks(const Plan& plan, const AttentionInputs& inputs, const BlockMask& mask,
                       std::span<std::byte>, const RunOptions& options) {
  std::vector<Selection> sequences;
  std::vector<double> densities;
  RunReport report;
  for (int64_t b = 0; b < plan.shape.batch; ++b) {
    sequences.push_back(select_sequence(plan, inputs, b, options));
    const Masks masks = timed_masks(plan, inputs, b, sequences.back(), &report);
    densities.push_back(masks.density);
    std::copy(masks.bits.begin(), masks.bits.end(), mask_rows(mask, b, 0).bits);
  }
  fill_report(plan, sequences, densities, report);
  if (options.report) *options.report = report;
  return {};
}

}  // namespace
}  // namespace ref

extern const BackendOps kRefOps;
const BackendOps kRefOps = {.id = Backend::kRef,
                            .prepare = ref::prepare,
                            .run = ref::run,
                            .score = ref::score_op,
                            .select_tokens = ref::select_tokens,
                            .compact = ref::compact,
                            .scatter = ref::scatter,
                            .estimate_blocks = ref::estimate_blocks,
                            .vertical_slash = true};

}  // namespace tokensieve
