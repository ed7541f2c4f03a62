// Backend::kRef through the public API, over all cases: paths, reports, stages, memory.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/case_data.h"
#include "support/compare.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;
using test::Tensor;

// The paper's mode, in which the stages can be called one by one.
bool staged(const AttentionCase& c) {
  return c.reason == DenseReason::kNone && c.select.fill == Fill::kZero &&
         c.select.queries == Queries::kKept && c.shape.seqlen_q == c.shape.seqlen_kv && !c.paged &&
         !c.sinks;
}

class RefRunTest : public testing::TestWithParam<AttentionCase> {
 protected:
  RefRunTest()
      : c_(GetParam()),
        data_(test::make_data(c_, 1)),
        plan_(make_plan(c_.shape, c_.select, {.backend = Backend::kRef}).value()) {}

  std::vector<int64_t> out_shape() const {
    return {c_.shape.batch, c_.shape.seqlen_q, c_.shape.num_q_heads, c_.shape.head_dim};
  }

  AttentionCase c_;
  CaseData data_;
  Plan plan_;
};

class RefStagesTest : public RefRunTest {};
class RefBatchTest : public RefRunTest {};

TEST_P(RefRunTest, TakesThePathThatTheCaseIsFor) {
  RunReport report;
  ASSERT_TRUE(run(plan_, data_.inputs(), data_.outputs(), {}, {.report = &report}).ok());
  EXPECT_EQ(report.reason, c_.reason) << dense_reason_text(report.reason);
  EXPECT_TRUE(data_.out.untouched_outside());
  const bool some_dense = c_.reason != DenseReason::kNone;
  const bool all_dense =
      some_dense && !(c_.reason == DenseReason::kNonFiniteScore && c_.shape.batch > 1);
  EXPECT_EQ(report.path, all_dense ? Path::kDense : Path::kSparse);
  EXPECT_GT(report.keep_count, 0);
  if (all_dense) {
    EXPECT_EQ(report.keep_ratio, 1.0);
  } else {
    EXPECT_LT(report.keep_ratio, 1.0);
  }

  // Every row was written, with the oracle's doubles rounded once.
  const ref::OracleResult oracle = test::run_oracle(plan_, data_);
  EXPECT_TRUE(test::close(data_.out_values(), oracle.out, test::output_tolerance(c_), out_shape()));
  EXPECT_TRUE(test::close(data_.lse, oracle.lse, 1e-6,
                          {c_.shape.batch, c_.shape.num_q_heads, c_.shape.seqlen_q}));
}

// select_tokens -> compact -> dense attention -> scatter is the paper's zero fill.
TEST_P(RefStagesTest, StagesGiveTheRun) {
  const AttentionShape& s = c_.shape;
  const int64_t capacity = plan_.keep_capacity() + 3;
  std::vector<int32_t> indices(s.batch * plan_.num_sets * capacity, -1);
  std::vector<int64_t> count(s.batch);
  const KeepSet keep = {indices.data(), capacity, count.data()};
  ASSERT_TRUE(select_tokens(plan_, data_.inputs(), keep, {}).ok());

  Tensor qc(s.dtype, c_.layout, s.batch, capacity, s.num_q_heads, s.head_dim);
  Tensor kc(s.kv_dtype, c_.layout, s.batch, capacity, s.num_q_heads, s.head_dim);
  Tensor vc(s.kv_dtype, c_.layout, s.batch, capacity, s.num_q_heads, s.head_dim);
  Tensor oc(s.out_dtype, c_.layout, s.batch, capacity, s.num_q_heads, s.head_dim);
  ASSERT_TRUE(compact(plan_, data_.q.view(), keep, qc.view()).ok());
  ASSERT_TRUE(compact(plan_, data_.k.view(), keep, kc.view()).ok());
  ASSERT_TRUE(compact(plan_, data_.v.view(), keep, vc.view()).ok());
  EXPECT_TRUE(qc.untouched_outside());

  // Rows past a sequence's count are poisoned and see only one another or come later.
  AttentionShape dense = s;
  dense.seqlen_q = dense.seqlen_kv = capacity;
  dense.num_kv_heads = s.num_q_heads;
  const Plan attend = make_plan(dense, {.enabled = false}, {.backend = Backend::kRef}).value();
  ASSERT_TRUE(
      run(attend, {.q = qc.view(), .k = kc.view(), .v = vc.view()}, {.out = oc.view()}, {}).ok());
  ASSERT_TRUE(scatter(plan_, oc.view(), keep, data_.out.view()).ok());
  const ref::OracleResult oracle = test::run_oracle(plan_, data_);
  EXPECT_TRUE(test::close(data_.out_values(), oracle.out, test::output_tolerance(c_), out_shape()));
  EXPECT_TRUE(data_.out.untouched_outside());
}

// Sequences do not see each other: a batch gives what its sequences give alone.
TEST_P(RefBatchTest, BatchIsItsSequences) {
  const ref::OracleResult whole = test::run_oracle(plan_, data_);
  AttentionCase one = c_;
  one.shape.batch = 1;
  const Plan plan = make_plan(one.shape, one.select, {.backend = Backend::kRef}).value();
  const size_t size = whole.out.size() / c_.shape.batch;
  for (int64_t b = 0; b < c_.shape.batch; ++b) {
    AttentionInputs in = data_.inputs();
    for (TensorView* view : {&in.q, &in.k, &in.v}) {
      view->data =
          static_cast<std::byte*>(view->data) + b * view->strides[0] * dtype_size(view->dtype);
      view->shape[0] = 1;
    }
    if (in.kv_indices) in.kv_indices += b * c_.shape.seqlen_kv;
    ref::OracleResult alone;
    ASSERT_TRUE(ref::run_oracle(plan, in, {}, alone).ok());
    const std::vector<double> part(whole.out.begin() + b * size,
                                   whole.out.begin() + (b + 1) * size);
    EXPECT_TRUE(test::close(part, alone.out, 0.0, out_shape()));
    EXPECT_EQ(whole.sequences[b].reason, alone.sequences[0].reason);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, RefRunTest, testing::ValuesIn(test::all_cases()), test::case_name);
INSTANTIATE_TEST_SUITE_P(Cases, RefStagesTest, testing::ValuesIn(test::cases_where(staged)),
                         test::case_name);
INSTANTIATE_TEST_SUITE_P(Cases, RefBatchTest,
                         testing::ValuesIn(test::cases_where([](const AttentionCase& c) {
                           return c.shape.batch > 1;
                         })),
                         test::case_name);

TEST(RefRun, ThreadsGiveTheSameBits) {
  const AttentionCase c = test::sparse_cases().front();
  const CaseData data = test::make_data(c, 1);
  const Plan plan =
      make_plan(c.shape, c.select, {.backend = Backend::kRef, .num_threads = 3}).value();
  const auto pool = make_thread_pool(3);
  ref::OracleResult serial, threaded;
  ASSERT_TRUE(ref::run_oracle(plan, data.inputs(), {}, serial).ok());
  ASSERT_TRUE(ref::run_oracle(plan, data.inputs(), {.executor = pool.get()}, threaded).ok());
  EXPECT_EQ(serial.out, threaded.out);
  EXPECT_EQ(serial.lse, threaded.lse);
}

TEST(RefRun, Cancels) {
  const AttentionCase c = test::dense_cases().front();
  CaseData data = test::make_data(c, 1);
  const Plan plan = make_plan(c.shape, c.select, {.backend = Backend::kRef}).value();
  const RunOptions cancel = {.should_cancel = [](void*) { return true; }};
  EXPECT_EQ(run(plan, data.inputs(), data.outputs(), {}, cancel).code(), StatusCode::kCancelled);
}

// Counts of a batch are the sequences' own.
TEST(RefRun, BatchKeepsDifferentCounts) {
  for (const AttentionCase& c : test::sparse_cases()) {
    if (c.name != "zero_batch") continue;
    const ref::OracleResult r = test::run_oracle(c, test::make_data(c, 1));
    EXPECT_NE(r.sequences[0].budget.keep, r.sequences[1].budget.keep);
  }
}

}  // namespace
}  // namespace tokensieve
