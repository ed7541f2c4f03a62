// Attend on matrix tiles: the case tables against the oracle, on emulated tiles and, where there are
// some, on the hardware's, which must give the same bits.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "support/case_data.h"
#include "support/compare.h"
#include "tokensieve/names.h"
#include "tokensieve/tokensieve.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;
using test::Content;

constexpr Products kModes[] = {Products::kSplit, Products::kBf16};

struct Outcome {
  RunReport report;
  ProductsReason reason;
  std::vector<double> out;
  std::vector<float> lse;
};

// Runs the case in fresh, poisoned memory; checks that nothing outside it was written.
Outcome run_case(const AttentionCase& c, CaseData& data, Isa isa, Products products,
                 int threads = 1) {
  const PlanOptions options = {
      .backend = Backend::kCpu, .isa = isa, .num_threads = threads, .products = products};
  const Result<Plan> plan = make_plan(c.shape, c.select, options);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  if (!plan.ok()) return {};
  test::GuardedBytes workspace(workspace_bytes(*plan));
  const std::unique_ptr<Executor> executor = make_thread_pool(threads);
  data.poison_outputs();
  Outcome outcome;
  outcome.reason = plan->products_reason;
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
testing::AssertionResult same_bits(const Outcome& a, const Outcome& b) {
  if (a.out.size() == b.out.size() && a.lse.size() == b.lse.size() &&
      std::memcmp(a.out.data(), b.out.data(), a.out.size() * sizeof(double)) == 0 &&
      std::memcmp(a.lse.data(), b.lse.data(), a.lse.size() * sizeof(float)) == 0) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << "the bits differ";
}

// The case with the products that are wanted: split takes no f32 keys.
AttentionCase on_tiles(AttentionCase c, Products products) {
  if (products == Products::kSplit && c.shape.kv_dtype == DType::kF32) {
    c.shape.kv_dtype = DType::kF16;
  }
  return c;
}

// 16 bits of q and P, all of k and v: logits of this data reach 20, of which 2^-17 are lost, and the
// weights with them. bf16 keeps 8 bits of everything.
double tolerance(const AttentionCase& c, Products products) {
  const double own = products == Products::kSplit ? 2e-5 : 2e-2;
  return std::max(own, test::output_tolerance(c));
}

class CpuTiles : public testing::TestWithParam<AttentionCase> {};

TEST_P(CpuTiles, MatchTheOracle) {
  for (const Products products : kModes) {
    SCOPED_TRACE(name_of(products));
    const AttentionCase c = on_tiles(GetParam(), products);
    CaseData data = test::make_data(c, 1);
    const ref::OracleResult expected = test::run_oracle(c, data);
    const Outcome actual = run_case(c, data, Isa::kAmxEmulated, products);
    EXPECT_EQ(actual.report.products, c.shape.causal ? products : Products::kExact);
    EXPECT_EQ(actual.report.path, expected.report.path);
    EXPECT_EQ(actual.report.keep_count, expected.report.keep_count);
    EXPECT_TRUE(test::close(actual.out, expected.out, tolerance(c, products),
                            {c.shape.batch, c.shape.seqlen_q, c.shape.num_q_heads,
                             c.shape.head_dim}));
    EXPECT_TRUE(test::close(actual.lse, expected.lse, products == Products::kSplit ? 1e-5 : 5e-3,
                            {c.shape.batch, c.shape.num_q_heads, c.shape.seqlen_q}));
    if (isa_supported(Isa::kAmx)) {
      const Outcome hardware = run_case(c, data, Isa::kAmx, products);
      EXPECT_EQ(hardware.report.products, actual.report.products)
          << products_reason_text(hardware.reason);
      EXPECT_TRUE(same_bits(actual, hardware));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuTiles, testing::ValuesIn(test::all_cases()), test::case_name);

}  // namespace
}  // namespace tokensieve
