// Attend on matrix tiles: the case tables against the oracle, on emulated tiles and, where there
// are some, on the hardware's, which must give the same bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "support/case_data.h"
#include "support/compare.h"
#include "support/isas.h"
#include "support/matrix_tiles.h"
#include "tokensieve/names.h"
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

class CpuTiles : public testing::TestWithParam<AttentionCase> {};

TEST_P(CpuTiles, MatchTheOracleBitForBitOnBoth) {
  for (const Products products : test::kTileProducts) {
    SCOPED_TRACE(name_of(products));
    const AttentionCase c = test::on_tiles(GetParam(), products);
    CaseData data = test::make_data(c, 1);
    const ref::OracleResult expected = test::run_oracle(c, data);
    const Outcome actual = run_case(c, data, Isa::kAmxEmulated, products);
    const bool causal = c.shape.causal;
    EXPECT_EQ(actual.report.products, causal ? products : Products::kExact);
    EXPECT_EQ(actual.report.isa == Isa::kAmxEmulated, causal);
    EXPECT_EQ(actual.report.path, expected.report.path);
    EXPECT_EQ(actual.report.reason, expected.report.reason);
    EXPECT_EQ(actual.report.keep_count, expected.report.keep_count);
    EXPECT_EQ(actual.report.work, expected.report.work);
    EXPECT_TRUE(test::close(
        actual.out, expected.out, test::tile_tolerance(c, products),
        {c.shape.batch, c.shape.seqlen_q, c.shape.num_q_heads, c.shape.head_dim}));
    EXPECT_TRUE(test::close(actual.lse, expected.lse, test::lse_tolerance(products),
                            {c.shape.batch, c.shape.num_q_heads, c.shape.seqlen_q}));
    if (!test::hardware_tiles()) continue;
    const Outcome hardware = run_case(c, data, Isa::kAmx, products);
    EXPECT_EQ(hardware.report.isa == Isa::kAmx, causal);
    EXPECT_TRUE(same_bits(actual, hardware));
  }
}

TEST_P(CpuTiles, AreBitEqualAcrossThreadsAndRuns) {
  for (const Products products : test::kTileProducts) {
    SCOPED_TRACE(name_of(products));
    const AttentionCase c = test::on_tiles(GetParam(), products);
    CaseData data = test::make_data(c, 2);
    const Outcome serial = run_case(c, data, test::best_tiles(), products);
    for (const int threads : test::tested_threads()) {
      EXPECT_TRUE(same_bits(serial, run_case(c, data, test::best_tiles(), products, threads)))
          << threads << " threads";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuTiles, testing::ValuesIn(test::tile_cases()), test::case_name);

// Several blocks of keys, row tiles and heads of a group in one task.
AttentionCase long_case(int32_t q_heads, int32_t kv_heads, int32_t head_dim) {
  AttentionCase c = {"long", test::self_attention(900, q_heads, kv_heads, head_dim)};
  c.shape.kv_dtype = DType::kF16;
  return c;
}

TEST(CpuTilesLong, MatchTheOracle) {
  for (const auto& c : {long_case(1, 1, 64), long_case(3, 1, 64), long_case(5, 1, 48),
                        long_case(4, 2, 128), long_case(8, 1, 16)}) {
    CaseData data = test::make_data(c, 3);
    const ref::OracleResult expected = test::run_oracle(c, data);
    for (const Products products : test::kTileProducts) {
      const Outcome actual = run_case(c, data, test::best_tiles(), products);
      EXPECT_TRUE(test::close(actual.out, expected.out, test::tile_tolerance(c, products),
                              {1, c.shape.seqlen_q, c.shape.num_q_heads, c.shape.head_dim}))
          << c.shape.num_q_heads << " heads, " << name_of(products);
    }
  }
}

// Rows do not depend on which others share their task: heads of a group against heads alone.
TEST(CpuTilesLong, HeadsOfAGroupAreThoseAlone) {
  const AttentionCase c = long_case(5, 1, 64), alone = long_case(1, 1, 64);
  CaseData data = test::make_data(c, 4);
  for (const Products products : test::kTileProducts) {
    const Outcome all = run_case(c, data, test::best_tiles(), products);
    for (int64_t h = 0; h < 5; ++h) {
      CaseData one = test::make_data(alone, 4);
      one.k.assign(data.k.values());
      one.v.assign(data.v.values());
      for (int64_t i = 0; i < 900; ++i) {
        for (int64_t d = 0; d < 64; ++d) one.q.set(0, i, 0, d, data.q.at(0, i, h, d));
      }
      const Outcome head = run_case(alone, one, test::best_tiles(), products);
      for (int64_t i = 0; i < 900; ++i) {
        const double *row = &all.out[(i * 5 + h) * 64], *same = &head.out[i * 64];
        ASSERT_TRUE(std::equal(row, row + 64, same)) << "row " << i << ", head " << h;
      }
    }
  }
}

// NaN and inf in k or v run in f32: rows that do not see them keep their bits, the others get what
// f32 gives.
TEST(CpuTilesNonFinite, BehaveAsInF32) {
  const AttentionCase c = long_case(3, 1, 64);
  constexpr int64_t kKey = 500;
  for (const double value : {double{NAN}, double{INFINITY}, -double{INFINITY}}) {
    for (const bool in_k : {true, false}) {
      SCOPED_TRACE(testing::Message() << value << (in_k ? " in k" : " in v"));
      CaseData data = test::make_data(c, 5), intact = test::make_data(c, 5);
      (in_k ? data.k : data.v).set(0, kKey, 0, 7, value);
      for (const Products products : test::kTileProducts) {
        const Outcome before = run_case(c, intact, test::best_tiles(), products);
        const Outcome actual = run_case(c, data, test::best_tiles(), products);
        const Outcome exact = run_case(c, data, Isa::kAuto, Products::kExact);
        const int64_t unseen = kKey / 64 * 64 * 3 * 64;
        EXPECT_EQ(std::memcmp(before.out.data(), actual.out.data(), unseen * sizeof(double)), 0);
        EXPECT_TRUE(test::close(actual.out, exact.out, test::tile_tolerance(c, products),
                                {1, 900, 3, 64}));
      }
    }
  }
}

}  // namespace
}  // namespace tokensieve
