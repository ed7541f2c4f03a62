// The CPU backend against the oracle: every row of the case tables, under every instruction set of
// this machine, with poisoned memory, and bit-equal whatever the threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <tuple>
#include <vector>

#include "support/case_data.h"
#include "support/compare.h"
#include "tokensieve/tokensieve.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;

struct Outcome {
  RunReport report;
  std::vector<double> out;
  std::vector<float> lse;
};

// Runs the case in fresh, poisoned memory; checks that nothing outside it was written.
Outcome run_case(const AttentionCase& c, CaseData& data, Isa isa, int threads) {
  const Result<Plan> plan = make_plan(
      c.shape, c.select, {.backend = Backend::kCpu, .isa = isa, .num_threads = threads});
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  if (!plan.ok()) return {};
  test::GuardedBytes workspace(workspace_bytes(*plan));
  const std::unique_ptr<Executor> executor = make_thread_pool(threads);
  data.poison_outputs();
  Outcome outcome;
  const Status status = run(*plan, data.inputs(), data.outputs(), workspace.span(),
                            {.executor = executor.get(), .report = &outcome.report});
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(workspace.guards_intact());
  EXPECT_TRUE(data.out.untouched_outside());
  outcome.out = data.out_values();
  outcome.lse = data.lse;
  return outcome;
}

// NaN compares equal to itself here.
bool same_bits(const Outcome& a, const Outcome& b) {
  return a.out.size() == b.out.size() && a.lse.size() == b.lse.size() &&
         std::memcmp(a.out.data(), b.out.data(), a.out.size() * sizeof(double)) == 0 &&
         std::memcmp(a.lse.data(), b.lse.data(), a.lse.size() * sizeof(float)) == 0;
}

class CpuBackend : public testing::TestWithParam<AttentionCase> {};

TEST_P(CpuBackend, MatchesTheOracleUnderEveryIsa) {
  const AttentionCase& c = GetParam();
  CaseData data = test::make_data(c, 1);
  const ref::OracleResult expected = test::run_oracle(c, data);
  const std::vector<int64_t> shape = {c.shape.batch, c.shape.seqlen_q, c.shape.num_q_heads,
                                      c.shape.head_dim};
  for (Isa isa : supported_isas()) {
    SCOPED_TRACE(isa_name(isa));
    const Outcome actual = run_case(c, data, isa, 1);
    EXPECT_EQ(actual.report.isa, isa);
    EXPECT_EQ(actual.report.path, expected.report.path);
    EXPECT_EQ(actual.report.reason, expected.report.reason)
        << dense_reason_text(actual.report.reason);
    EXPECT_EQ(actual.report.keep_count, expected.report.keep_count);
    EXPECT_TRUE(test::close(actual.out, expected.out, test::output_tolerance(c), shape));
    EXPECT_TRUE(test::close(actual.lse, expected.lse, 1e-5,
                            {c.shape.batch, c.shape.num_q_heads, c.shape.seqlen_q}));
  }
}

TEST_P(CpuBackend, IsBitEqualAcrossThreadsAndRuns) {
  const AttentionCase& c = GetParam();
  CaseData data = test::make_data(c, 2);
  const Isa isa = supported_isas().front();
  const Outcome serial = run_case(c, data, isa, 1);
  for (int threads : {1, 2, 5}) {
    EXPECT_TRUE(same_bits(serial, run_case(c, data, isa, threads))) << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuBackend, testing::ValuesIn(test::all_cases()),
                         test::case_name);

// ---- the single stages

class CpuStages : public testing::TestWithParam<AttentionCase> {};

// select_tokens, compact, the caller's attend, scatter: each equals the oracle's.
TEST_P(CpuStages, SelectCompactScatterMatchTheOracle) {
  const AttentionCase& c = GetParam();
  CaseData data = test::make_data(c, 3);
  const Result<Plan> plan = make_plan(c.shape, c.select, {.backend = Backend::kCpu});
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  const ref::OracleResult expected = test::run_oracle(c, data);
  const int64_t capacity = plan->keep_capacity();
  std::vector<int32_t> indices(c.shape.batch * plan->num_sets * capacity, -1);
  std::vector<int64_t> count(c.shape.batch, -1);
  const KeepSet keep{indices.data(), capacity, count.data()};
  test::GuardedBytes workspace(workspace_bytes(*plan));
  const AttentionInputs in = data.inputs();
  ASSERT_TRUE(select_tokens(*plan, in, keep, workspace.span()).ok());
  EXPECT_TRUE(workspace.guards_intact());

  for (int64_t b = 0; b < c.shape.batch; ++b) {
    const ref::Selection& selection = expected.sequences[b];
    if (selection.dense()) {
      EXPECT_EQ(count[b], c.shape.seqlen_kv);
      continue;
    }
    for (int64_t set = 0; set < plan->num_sets; ++set) {
      const int32_t* row = indices.data() + (b * plan->num_sets + set) * capacity;
      EXPECT_THAT(std::vector<int32_t>(row, row + count[b]),
                  testing::ElementsAreArray(selection.kept[set]))
          << "sequence " << b << ", set " << set;
    }
  }
  if (c.shape.seqlen_q != c.shape.seqlen_kv) return;

  // compact then scatter gives the kept rows back and zeros elsewhere.
  const int32_t heads = c.shape.num_q_heads;
  test::Tensor rows(c.shape.dtype, c.layout, c.shape.batch, capacity, heads, c.shape.head_dim);
  test::Tensor back(c.shape.dtype, c.layout, c.shape.batch, c.shape.seqlen_q, heads,
                    c.shape.head_dim);
  ASSERT_TRUE(compact(*plan, in.q, keep, rows.view()).ok());
  ASSERT_TRUE(scatter(*plan, rows.view(), keep, back.view()).ok());
  EXPECT_TRUE(rows.untouched_outside() && back.untouched_outside());
  for (int64_t b = 0; b < c.shape.batch; ++b) {
    if (expected.sequences[b].dense()) continue;
    for (int32_t h = 0; h < heads; ++h) {
      const std::vector<int32_t>& kept = expected.sequences[b].kept_of(*plan, h);
      size_t next = 0;
      for (int64_t i = 0; i < c.shape.seqlen_q; ++i) {
        const bool is_kept = next < kept.size() && kept[next] == i;
        next += is_kept;
        ASSERT_EQ(back.at(b, i, h, 3), is_kept ? data.q.at(b, i, h, 3) : 0.0) << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuStages,
                         testing::ValuesIn(test::cases_where([](const AttentionCase& c) {
                           return c.reason == DenseReason::kNone && !c.sinks && !c.paged;
                         })),
                         test::case_name);

// A sequence that should run dense has no indices, whatever the capacity: its rows stay as they are.
TEST(CpuStagesDenseSequence, IsLeftUntouched) {
  const std::vector<AttentionCase> cases = test::cases_where(
      [](const AttentionCase& c) { return c.name == "corner_nan_in_one_of_batch"; });
  ASSERT_EQ(cases.size(), 1u);
  const AttentionCase& c = cases.front();
  const AttentionShape& s = c.shape;
  CaseData data = test::make_data(c, 5);
  const Plan plan = make_plan(s, c.select, {.backend = Backend::kCpu}).value();
  const int64_t capacity = s.seqlen_kv;
  std::vector<int32_t> indices(s.batch * plan.num_sets * capacity, -1);
  std::vector<int64_t> count(s.batch);
  const KeepSet keep{indices.data(), capacity, count.data()};
  test::GuardedBytes workspace(workspace_bytes(plan));
  ASSERT_TRUE(select_tokens(plan, data.inputs(), keep, workspace.span()).ok());
  ASSERT_EQ(count[0], s.seqlen_kv);
  ASSERT_LT(count[1], s.seqlen_kv);

  test::Tensor rows(s.dtype, c.layout, s.batch, capacity, s.num_q_heads, s.head_dim);
  test::Tensor back(s.dtype, c.layout, s.batch, s.seqlen_q, s.num_q_heads, s.head_dim);
  ASSERT_TRUE(compact(plan, data.inputs().q, keep, rows.view()).ok());
  ASSERT_TRUE(scatter(plan, rows.view(), keep, back.view()).ok());
  EXPECT_TRUE(std::isnan(rows.at(0, 0, 0, 0))) << "still poisoned";
  EXPECT_TRUE(std::isnan(back.at(0, 0, 0, 0))) << "still poisoned";
  EXPECT_FALSE(std::isnan(rows.at(1, 0, 0, 0)));
  EXPECT_FALSE(std::isnan(back.at(1, 0, 0, 0)));
}

TEST(CpuBackendCancel, StopsAndSaysSo) {
  AttentionCase c = test::dense_cases().front();
  CaseData data = test::make_data(c, 4);
  const Plan plan = make_plan(c.shape, c.select, {.backend = Backend::kCpu}).value();
  test::GuardedBytes workspace(workspace_bytes(plan));
  int asked = 0;
  const Status status = run(plan, data.inputs(), data.outputs(), workspace.span(),
                            {.should_cancel = [](void* n) { return ++*static_cast<int*>(n) > 1; },
                             .cancel_context = &asked});
  EXPECT_EQ(status.code(), StatusCode::kCancelled);
  EXPECT_EQ(asked, 2);
}

}  // namespace
}  // namespace tokensieve
