// The CPU backend against the oracle: every row of the case tables, under every instruction set of
// this machine, with poisoned memory, and bit-equal whatever the threads.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "support/case_data.h"
#include "support/compare.h"
#include "support/isas.h"
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
  for (Isa isa : test::tested_isas()) {
    SCOPED_TRACE(isa_name(isa));
    const Outcome actual = run_case(c, data, isa, 1);
    EXPECT_EQ(actual.report.isa, isa);
    EXPECT_EQ(actual.report.path, expected.report.path);
    EXPECT_EQ(actual.report.reason, expected.report.reason)
        << dense_reason_text(actual.report.reason);
    EXPECT_EQ(actual.report.keep_count, expected.report.keep_count);
    EXPECT_EQ(actual.report.work, expected.report.work);
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
  for (int threads : test::tested_threads()) {
    EXPECT_TRUE(same_bits(serial, run_case(c, data, isa, threads))) << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuBackend, testing::ValuesIn(test::all_cases()),
                         test::case_name);

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

// Runs every task on threads that are not the caller's.
class OthersOnly : public Executor {
 public:
  int num_threads() const override { return pool_->num_threads() + 1; }
  void run(int64_t count, Task task, void* context) override {
    pool_->parallel_for(count,
                        [&](int64_t index, int thread) { task(context, index, thread + 1); });
  }

 private:
  std::unique_ptr<Executor> pool_ = make_thread_pool(3);
};

struct Caller {
  int asked = 0;  // no atomic: one thread asks at a time
  int no = 0;     // so many times
  std::atomic<bool> inside{false};
  std::atomic<bool> twice{false};

  static bool should_cancel(void* self) {
    auto& caller = *static_cast<Caller*>(self);
    if (caller.inside.exchange(true)) caller.twice = true;
    std::this_thread::yield();
    const bool stop = ++caller.asked > caller.no;
    caller.inside = false;
    return stop;
  }
};

TEST(CpuBackendCancel, WhoeverWorksAsks) {
  const AttentionCase c = test::dense_cases().front();
  CaseData data = test::make_data(c, 4);
  OthersOnly others;
  const Plan plan = make_plan(c.shape, c.select,
                              {.backend = Backend::kCpu, .num_threads = others.num_threads()})
                        .value();
  test::GuardedBytes workspace(workspace_bytes(plan));
  for (const int no : {0, 1, 2, 1 << 30}) {
    Caller caller{.no = no};
    const Status status = run(plan, data.inputs(), data.outputs(), workspace.span(),
                              {.executor = &others,
                               .should_cancel = Caller::should_cancel,
                               .cancel_context = &caller});
    EXPECT_FALSE(caller.twice);
    if (caller.asked > no) {
      EXPECT_EQ(status.code(), StatusCode::kCancelled);
      EXPECT_EQ(caller.asked, no + 1) << "asked again after a yes";
    } else {
      EXPECT_TRUE(status.ok());
      EXPECT_GT(caller.asked, 0);
    }
  }
}

}  // namespace
}  // namespace tokensieve
