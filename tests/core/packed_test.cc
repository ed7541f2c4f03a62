// Packed variable lengths on the host backends: the same as the sequences one by one.
#include <gtest/gtest.h>

#include <vector>

#include "core/expect_error.h"
#include "support/case_data.h"
#include "support/compare.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;

struct Packed {
  std::vector<int32_t> cu_q = {0, 120, 120, 121, 300};
  std::vector<int32_t> cu_kv = {0, 150, 150, 151, 330};
  AttentionCase rows;  // the tensors, as one sequence
  AttentionShape shape;
  CaseData data;
  std::vector<float> lse;

  explicit Packed(SelectConfig select) {
    // Zero fill drops queries of whole prompts only.
    if (select.fill == Fill::kZero && select.queries == Queries::kKept) cu_kv = cu_q;
    rows.shape = test::suffix_attention(300, cu_kv.back(), 4, 2, 64);
    rows.select = select;
    data = test::make_data(rows, 5);
    shape = rows.shape;
    shape.packed = true;
    shape.batch = 4;
    shape.seqlen_q = 179;
    shape.seqlen_kv = 179;
    lse.assign(4 * 300, NAN);
  }

  Status run(Backend backend, RunReport* report = nullptr) {
    const Result<Plan> plan = make_plan(shape, rows.select, {.backend = backend});
    if (!plan.ok()) return plan.status();
    data.poison_outputs();
    test::GuardedBytes workspace(workspace_bytes(*plan));
    AttentionInputs in = data.inputs();
    in.cu_seqlens_q = cu_q.data();
    in.cu_seqlens_kv = cu_kv.data();
    const Status status = tokensieve::run(*plan, in, {.out = data.out.view(), .lse = lse.data()},
                                          workspace.span(), {.report = report});
    EXPECT_TRUE(workspace.guards_intact());
    return status;
  }

  // One sequence by itself, in double.
  ref::OracleResult alone(size_t b) const {
    AttentionShape one = rows.shape;
    one.seqlen_q = cu_q[b + 1] - cu_q[b];
    one.seqlen_kv = cu_kv[b + 1] - cu_kv[b];
    AttentionInputs in = data.inputs();
    const auto slice = [](TensorView& view, int64_t begin, int64_t count) {
      view.data = static_cast<float*>(view.data) + begin * view.strides[1];
      view.shape[1] = count;
    };
    slice(in.q, cu_q[b], one.seqlen_q);
    slice(in.k, cu_kv[b], one.seqlen_kv);
    slice(in.v, cu_kv[b], one.seqlen_kv);
    ref::OracleResult result;
    const Plan plan = make_plan(one, rows.select, {.backend = Backend::kRef}).value();
    EXPECT_TRUE(ref::run_oracle(plan, in, {}, result).ok());
    return result;
  }
};

SelectConfig keep_third(Fill fill, Queries queries = Queries::kKept) {
  SelectConfig select = test::small_select();
  select.queries = queries;
  select.budget = BudgetPolicy::kKeepRatio;
  select.keep_ratio = 0.34;
  select.fill = fill;
  return select;
}

class PackedTest : public testing::TestWithParam<std::pair<Backend, SelectConfig>> {};

TEST_P(PackedTest, EqualsTheSequencesOneByOne) {
  const auto& [backend, select] = GetParam();
  Packed packed(select);
  RunReport report;
  const Status status = packed.run(backend, &report);
  ASSERT_TRUE(status.ok()) << status.message();
  const std::vector<double> out = packed.data.out_values();
  int64_t kept = 0;
  double pairs = 0, dense_pairs = 0;
  for (size_t b = 0; b + 1 < packed.cu_q.size(); ++b) {
    const int64_t begin = packed.cu_q[b], rows = packed.cu_q[b + 1] - begin;
    if (rows == 0) continue;
    const ref::OracleResult expected = packed.alone(b);
    kept += expected.report.keep_count;
    const auto keys = static_cast<double>(packed.cu_kv[b + 1] - packed.cu_kv[b]);
    const double dense = static_cast<double>(rows) * (keys - static_cast<double>(rows - 1) / 2);
    pairs += expected.report.work * dense;
    dense_pairs += dense;
    const std::vector<double> own(out.begin() + begin * 256, out.begin() + (begin + rows) * 256);
    EXPECT_TRUE(test::close(own, expected.out, 1e-5, {rows, 4, 64})) << "sequence " << b;
    for (int64_t h = 0; h < 4; ++h) {
      for (int64_t i = 0; i < rows; ++i) {
        const float lse = packed.lse[h * 300 + begin + i];
        const double want = expected.lse[h * rows + i];
        if (lse == want) continue;  // both -inf
        EXPECT_NEAR(lse, want, 1e-4) << b << " " << h << " " << i;
      }
    }
  }
  EXPECT_EQ(report.keep_count, kept);
  EXPECT_NEAR(report.work, pairs / dense_pairs, 1e-12);
  EXPECT_EQ(report.path, select.enabled ? Path::kSparse : Path::kDense);
}

INSTANTIATE_TEST_SUITE_P(
    HostBackends, PackedTest,
    testing::Values(std::pair{Backend::kCpu, SelectConfig{.enabled = false}},
                    std::pair{Backend::kCpu, keep_third(Fill::kZero)},
                    std::pair{Backend::kCpu, keep_third(Fill::kLocal)},
                    std::pair{Backend::kCpu, keep_third(Fill::kZero, Queries::kAll)},
                    std::pair{Backend::kRef, keep_third(Fill::kZero)}));

TEST(Packed, RefusesBadSequences) {
  const auto refuse = [](auto change, const char* word) {
    Packed packed(SelectConfig{.enabled = false});
    change(packed);
    test::expect_error(packed.run(Backend::kCpu), StatusCode::kInvalidArgument, {word});
  };
  refuse([](Packed& p) { p.cu_q.back() = 299; }, "cu_seqlens_q");
  refuse([](Packed& p) { p.cu_q[1] = 130, p.cu_q[2] = 120; }, "cu_seqlens_q");
  refuse([](Packed& p) { p.cu_kv[3] = 200; }, "queries and");
  refuse([](Packed& p) { p.shape.seqlen_q = p.shape.seqlen_kv = 178; }, "longest");
}

TEST(Packed, RefusesZeroFillOfAChunk) {
  Packed packed(keep_third(Fill::kZero));
  packed.cu_q = {0, 90, 90, 91, 270};
  packed.rows.shape = test::suffix_attention(270, 300, 4, 2, 64);
  packed.data = test::make_data(packed.rows, 5);
  test::expect_error(packed.run(Backend::kCpu), StatusCode::kInvalidArgument,
                     {"90 queries of 120 tokens", "fill = local", "queries = all"});
}

// Shorter sequences, and longer chunks, may want more memory than the longest.
class PackedWorkspace : public testing::TestWithParam<SelectConfig> {};

TEST_P(PackedWorkspace, IsEnoughForEverySequence) {
  const SelectConfig& select = GetParam();
  AttentionShape shape = test::self_attention(30000, 4, 2, 64);
  for (const int64_t longest : {30000, 9000, 700}) {
    for (const int64_t longest_q : {longest, longest / 3}) {
      shape.packed = true;
      shape.batch = 2;
      shape.seqlen_kv = longest;
      shape.seqlen_q = longest_q;
      const Plan packed = make_plan(shape, select, {.num_threads = 4}).value();
      AttentionShape one = shape;
      one.packed = false;
      one.batch = 1;
      for (one.seqlen_kv = 40; one.seqlen_kv <= longest; one.seqlen_kv += longest / 60) {
        for (const int64_t q : {int64_t{1}, int64_t{40}, longest_q / 2, longest_q}) {
          one.seqlen_q = std::min(q, one.seqlen_kv);
          const Result<Plan> plan = make_plan(one, select, {.num_threads = 4});
          if (!plan.ok()) continue;  // zero fill of a chunk
          EXPECT_LE(plan->workspace, packed.workspace)
              << one.seqlen_q << " of " << one.seqlen_kv << ", longest " << longest;
        }
      }
    }
  }
}

SelectConfig tau_that_must_win(Fill fill, Queries queries) {
  SelectConfig select = keep_third(fill, queries);
  select.budget = BudgetPolicy::kTau;
  select.dense_policy = DensePolicy::kBreakEven;
  return select;
}

INSTANTIATE_TEST_SUITE_P(Selections, PackedWorkspace,
                         testing::Values(SelectConfig{.enabled = false},
                                         keep_third(Fill::kLocal), keep_third(Fill::kZero),
                                         keep_third(Fill::kZero, Queries::kAll),
                                         tau_that_must_win(Fill::kLocal, Queries::kKept),
                                         tau_that_must_win(Fill::kZero, Queries::kAll)));

TEST(Packed, SelectionStagesNeedPlainPlans) {
  Packed packed(keep_third(Fill::kZero));
  const Plan plan = make_plan(packed.shape, packed.rows.select).value();
  test::expect_error(select_tokens(plan, packed.data.inputs(), {}, {}), StatusCode::kUnsupported,
                     {"packed"});
}

}  // namespace
}  // namespace tokensieve
