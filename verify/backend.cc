// A backend on a golden case: each stage through the backend table and the public API.
#include <cstring>
#include <limits>
#include <numeric>

#include "core/backend_table.h"
#include "core/budget.h"
#include "ref/elements.h"
#include "verify/checks.h"

namespace tokensieve::verify {
namespace {

constexpr double kScoreTolerance = 1e-5;   // score, pooled, layer in f32
constexpr double kOutputTolerance = 1e-5;  // f32 arithmetic on exact bf16 inputs
constexpr double kLseTolerance = 1e-5;
constexpr double kTie = 1e-6;  // scores closer than this may swap places

// One backend on one case.
class BackendChecker {
 public:
  BackendChecker(const GoldenCase& golden, const ref::OracleResult& oracle, Backend backend,
                 Isa isa, Executor& executor)
      : golden_(golden),
        oracle_(oracle),
        backend_(backend),
        isa_(isa),
        options_{.executor = &executor, .report = &report_} {}

  std::vector<Check> run() {
    const Result<Plan> plan = make(golden_.shape, golden_.select);
    if (!plan.ok()) return {failed("plan", plan.status())};
    plan_ = *plan;
    // Without its own sets (dense) the golden ones serve, which then hold every token.
    sets_ = sets_per_head(plan_, {});
    if (plan_.path == Path::kSparse) {
      score_and_budget();
      select();
      if (golden_.select.fill == Fill::kZero) attend_compacted();
      if (!golden_.official_indices.empty()) official();
    }
    end_to_end();
    return std::move(checks_);
  }

 private:
  Result<Plan> make(const AttentionShape& shape, const SelectConfig& select) {
    return make_plan(
        shape, select,
        {.backend = backend_, .isa = isa_, .num_threads = options_.executor->num_threads()});
  }

  // A workspace for the plan, full of NaN.
  std::span<std::byte> workspace(const Plan& plan) {
    workspace_.assign(workspace_bytes(plan), std::byte{0xff});
    return workspace_;
  }

  // Whether the call worked; a failed check if not.
  bool worked(const char* stage, const Status& status) {
    if (!status.ok()) checks_.push_back(failed(stage, status));
    return status.ok();
  }

  void score_and_budget() {
    const AttentionInputs in = golden_.inputs();
    const int64_t heads = golden_.shape.num_q_heads;
    const int64_t prefix = golden_.prefix_len();
    const size_t size = static_cast<size_t>(prefix);
    std::vector<float> score(golden_.score.size(), std::numeric_limits<float>::quiet_NaN());
    const Status status =
        backend_ops(backend_)->score(plan_, in, score.data(), workspace(plan_), options_);
    if (!worked("score", status)) return;
    checks_.push_back(
        rel_l2_check("score", score, golden_.score, kScoreTolerance, {heads, prefix}));

    std::vector<float> pooled(score.size());
    std::vector<double> mean(size);
    for (int64_t h = 0; h < heads; ++h) {
      smooth({&score[h * prefix], size}, golden_.select.pool_width, Arithmetic::kFp32,
             {&pooled[h * prefix], size});
    }
    mean_rows(pooled.data(), heads, prefix, Arithmetic::kFp32, mean);
    std::vector<double> layer = mean;
    const double sum = std::accumulate(mean.begin(), mean.end(), 0.0);
    for (double& x : layer) x /= sum + 1e-8;
    checks_.push_back(
        rel_l2_check("pooled", pooled, golden_.pooled, kScoreTolerance, {heads, prefix}));
    checks_.push_back(rel_l2_check("layer", layer, golden_.layer, kScoreTolerance, {prefix}));
    const int64_t drop = golden_.select.budget == BudgetPolicy::kTau
                             ? drop_count(mean, golden_.select.tau, Arithmetic::kFp32)
                             : 0;
    checks_.push_back(keep_check(golden_, keep_count(golden_.select, prefix, drop), kTie));
  }

  // Sets of every head; false if the call failed.
  bool select_sets(const Plan& plan, const char* stage, TokenSets& sets) {
    const AttentionInputs in = golden_.inputs();
    const int64_t capacity = plan.keep_capacity();
    std::vector<int32_t> indices(plan.num_sets * capacity, -1);
    int64_t count = 0;
    const Status status = select_tokens(plan, in, {indices.data(), capacity, &count},
                                        workspace(plan), options_);
    if (!worked(stage, status)) return false;
    TokenSets own;
    for (int64_t set = 0; count < plan.shape.seqlen_kv && set < plan.num_sets; ++set) {
      const int32_t* begin = indices.data() + set * capacity;
      own.emplace_back(begin, begin + count);
    }
    sets = sets_per_head(plan, own);
    return true;
  }

  void select() {
    if (!select_sets(plan_, "select", sets_)) return;
    checks_.push_back(indices_check(golden_, plan_, sets_, kTie));
  }

  // reference_rounding: the golden score through core's rules, then the backend's own score.
  void official() {
    SelectConfig select = golden_.select;
    select.arithmetic = Arithmetic::kReferenceRounding;
    const Result<Plan> plan = make(golden_.shape, select);
    if (!plan.ok()) return checks_.push_back(failed("official", plan.status()));
    const int64_t prefix = golden_.prefix_len();
    const int64_t heads = golden_.shape.num_q_heads;
    const size_t size = static_cast<size_t>(prefix);
    std::vector<float> pooled(golden_.score.size()), scratch(size);
    for (int64_t h = 0; h < heads; ++h) {
      smooth({&golden_.score[h * prefix], size}, select.pool_width, select.arithmetic,
             {&pooled[h * prefix], size});
    }
    std::vector<double> mean(size);
    mean_rows(pooled.data(), heads, prefix, select.arithmetic, mean);
    const int64_t keep =
        keep_count(select, prefix, drop_count(mean, select.tau, select.arithmetic));
    TokenSets sets;
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<int32_t>& set = sets.emplace_back(keep + select.obs_window);
      top_tokens({&pooled[h * prefix], size}, keep, select.protect_first, true, scratch,
                 set.data());
      std::iota(set.begin() + keep, set.end(), static_cast<int32_t>(prefix));
    }
    checks_.push_back(official_check(golden_, "rounding", 0.0, sets));
    if (select_sets(*plan, "official", sets)) {
      checks_.push_back(official_check(golden_, "official", kOfficialMiss, sets));
    }
  }

  // compact, dense attention on the golden tokens and scatter, each through the public API.
  void attend_compacted() {
    const AttentionShape& s = golden_.shape;
    const AttentionInputs in = golden_.inputs();
    if (golden_.keep >= golden_.prefix_len() || golden_.keep > plan_.max_keep) return;
    const int64_t heads = s.num_q_heads;
    const int64_t capacity = plan_.keep_capacity();
    std::vector<int32_t> indices(plan_.num_sets * capacity, -1);
    for (int64_t set = 0; set < plan_.num_sets; ++set) {
      const auto from = row_of(golden_.indices, golden_.kept, set * heads / plan_.num_sets);
      std::copy(from.begin(), from.end(), indices.begin() + set * capacity);
    }
    int64_t count = golden_.kept;
    const KeepSet keep = {indices.data(), capacity, &count};

    std::vector<uint16_t> rows[3];
    const TensorView full[3] = {in.q, in.k, in.v};
    TensorView compacted[3];
    for (int i = 0; i < 3; ++i) {
      rows[i].assign(capacity * heads * s.head_dim, 0xffff);
      compacted[i] = bshd(rows[i].data(), DType::kBF16, 1, capacity, heads, s.head_dim);
      if (!worked("compact", compact(plan_, full[i], keep, compacted[i], options_))) return;
    }
    checks_.push_back(compact_check(full, compacted));
    attend_rows(compacted, keep);
  }

  Check compact_check(const TensorView (&full)[3], const TensorView (&compacted)[3]) {
    const AttentionShape& s = golden_.shape;
    Check check = {"compact", "different rows", 0.0, 0.0, ""};
    for (int i = 0; i < 3; ++i) {
      for (int64_t h = 0; h < s.num_q_heads; ++h) {
        for (int64_t r = 0; r < golden_.kept; ++r) {
          const int64_t head = h * full[i].shape[2] / s.num_q_heads;
          const int64_t token = golden_.indices[h * golden_.kept + r];
          const auto* a = static_cast<const uint16_t*>(compacted[i].data) +
                          ref::row_offset(compacted[i], 0, r, h);
          const auto* e =
              static_cast<const uint16_t*>(full[i].data) + ref::row_offset(full[i], 0, token, head);
          if (std::memcmp(a, e, s.head_dim * sizeof(uint16_t)) == 0) continue;
          check.error += 1;
          check.detail = fmt::format("{} row {} of head {}", "qkv"[i], r, h);
        }
      }
    }
    return check;
  }

  void attend_rows(TensorView (&compacted)[3], const KeepSet& keep) {
    AttentionShape rows = golden_.shape;
    rows.seqlen_q = rows.seqlen_kv = golden_.kept;
    rows.num_kv_heads = rows.num_q_heads;
    const Result<Plan> dense = make(rows, {.enabled = false});
    if (!dense.ok()) return checks_.push_back(failed("attend", dense.status()));
    const int64_t width = int64_t{rows.num_q_heads} * rows.head_dim;
    std::vector<float> out_rows(keep.capacity * width, std::numeric_limits<float>::quiet_NaN());
    TensorView out =
        bshd(out_rows.data(), DType::kF32, 1, keep.capacity, rows.num_q_heads, rows.head_dim);
    const TensorView all_rows = out;
    for (TensorView* view : {&compacted[0], &compacted[1], &compacted[2], &out}) {
      view->shape[1] = golden_.kept;
    }
    const AttentionInputs in = {.q = compacted[0], .k = compacted[1], .v = compacted[2]};
    const Status status = tokensieve::run(*dense, in, {.out = out}, workspace(*dense), options_);
    if (!worked("attend", status)) return;
    std::vector<float> scattered(golden_.shape.seqlen_q * width,
                                 std::numeric_limits<float>::quiet_NaN());
    const TensorView full = bshd(scattered.data(), DType::kF32, 1, golden_.shape.seqlen_q,
                                 rows.num_q_heads, rows.head_dim);
    if (!worked("scatter", scatter(plan_, all_rows, keep, full, options_))) return;
    TokenSets sets;
    for (int64_t h = 0; h < rows.num_q_heads; ++h) {
      const auto set = row_of(golden_.indices, golden_.kept, h);
      sets.emplace_back(set.begin(), set.end());
    }
    checks_.push_back(output_check("attend", expected_for(sets).first, scattered));
    checks_.push_back(zero_rows_check(golden_, sets, scattered));
  }

  void end_to_end() {
    const AttentionShape& s = golden_.shape;
    std::vector<float> out(golden_.output.size(), std::numeric_limits<float>::quiet_NaN());
    std::vector<float> lse(s.num_q_heads * s.seqlen_q, std::numeric_limits<float>::quiet_NaN());
    const TensorView view = bshd(out.data(), DType::kF32, 1, s.seqlen_q, s.num_q_heads, s.head_dim);
    const Status status = tokensieve::run(plan_, golden_.inputs(), {.out = view, .lse = lse.data()},
                                          workspace(plan_), options_);
    if (!worked("run", status)) return;
    const auto [expected, expected_lse] = expected_for(sets_);
    checks_.push_back(output_check("run", expected, out));
    checks_.push_back(
        rel_l2_check("lse", lse, expected_lse, kLseTolerance, {s.num_q_heads, s.seqlen_q}));
    if (golden_.select.fill == Fill::kZero) {
      checks_.push_back(zero_rows_check(golden_, sets_, out));
    }
    if (golden_.pairs > 0) checks_.push_back(work_check(golden_, report_.work));
    if (isa_ != Isa::kAuto && report_.isa != isa_) {
      checks_.push_back(
          {"isa", "forced", kNoError, 0.0,
           fmt::format("{} was asked for, {} ran", isa_name(isa_), isa_name(report_.isa))});
    }
  }

  Check output_check(const char* stage, const std::vector<double>& expected,
                     const std::vector<float>& out) {
    const AttentionShape& s = golden_.shape;
    return rel_l2_check(stage, out, expected, kOutputTolerance,
                        {s.seqlen_q, s.num_q_heads, s.head_dim});
  }

  std::pair<std::vector<double>, std::vector<double>> expected_for(const TokenSets& sets) {
    return expected_outputs(golden_, oracle_, plan_, sets, *options_.executor);
  }

  const GoldenCase& golden_;
  const ref::OracleResult& oracle_;
  Backend backend_;
  Isa isa_;
  RunReport report_;
  RunOptions options_;
  Plan plan_;
  std::vector<std::byte> workspace_;
  TokenSets sets_;
  std::vector<Check> checks_;
};

}  // namespace

std::vector<Check> check_backend(const GoldenCase& golden, const ref::OracleResult& oracle,
                                 Backend backend, Isa isa, Executor& executor) {
  return BackendChecker(golden, oracle, backend, isa, executor).run();
}

}  // namespace tokensieve::verify
