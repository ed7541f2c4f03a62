// Heads split over ranks (PlanOptions::num_ranks): the same sets and bits as one call with all.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "core/expect_error.h"
#include "core/plan.h"
#include "support/backends.h"
#include "support/case_data.h"
#include "support/ranks.h"

namespace tokensieve {
namespace {

using test::AllGather;
using test::AttentionCase;
using test::CaseData;
using test::expect_error;

constexpr int64_t kTokens = 300;
constexpr int32_t kHeads = 24, kKvHeads = 12;

// One rank's, or one call's, results.
struct Outcome {
  std::vector<int64_t> count;
  std::vector<int32_t> indices;  // [batch, num_sets, capacity]
  RunReport report;
  int gathers = 0;
};

// Chooses, then runs into the rank's part of data.out.
Outcome run_rank(const AttentionCase& c, Backend backend, CaseData& data, int rank, int num_ranks,
                 AllGather& all) {
  Outcome outcome;
  AllGather::Rank own{&all, rank};
  const AttentionShape shape = test::shape_of_rank(c.shape, num_ranks);
  const Plan plan =
      make_plan(shape, c.select, {.backend = backend, .num_ranks = num_ranks, .rank = rank})
          .value();
  const int64_t capacity = plan.keep_capacity();
  outcome.count.assign(shape.batch, -1);
  outcome.indices.assign(shape.batch * plan.num_sets * capacity, -1);
  test::GuardedBytes workspace(workspace_bytes(plan));
  const AttentionInputs in = test::inputs_of_rank(data.inputs(), rank, num_ranks);
  const RunOptions options = {.report = &outcome.report,
                              .all_gather = num_ranks == 1 ? nullptr : AllGather::gather,
                              .gather_context = &own};
  if (plan.path == Path::kSparse) {
    const Status chosen =
        select_tokens(plan, in, {outcome.indices.data(), capacity, outcome.count.data()},
                      workspace.span(), options);
    EXPECT_TRUE(chosen.ok()) << chosen.message();
  }
  const AttentionOutputs out = {.out = test::heads_of_rank(data.out.view(), rank, num_ranks)};
  const Status status = run(plan, in, out, workspace.span(), options);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(workspace.guards_intact());
  outcome.gathers = own.calls;
  return outcome;
}

std::vector<Outcome> run_ranks(const AttentionCase& c, Backend backend, CaseData& data,
                               int num_ranks) {
  data.poison_outputs();
  AllGather all(num_ranks);
  std::vector<Outcome> outcomes(num_ranks);
  test::for_ranks(num_ranks, [&](int rank) {
    outcomes[rank] = run_rank(c, backend, data, rank, num_ranks, all);
  });
  return outcomes;
}

struct RankCase {
  Backend backend;
  AttentionCase attention;
};

class Ranks : public testing::TestWithParam<RankCase> {};

TEST_P(Ranks, ChooseWhatOneCallChooses) {
  const auto& [backend, c] = GetParam();
  CaseData data = test::make_data(c, 3);
  const Outcome one = run_ranks(c, backend, data, 1).front();
  const std::vector<double> out = data.out_values();
  ASSERT_EQ(one.report.reason, c.reason);
  for (int num_ranks : {2, 3, 4}) {
    SCOPED_TRACE(num_ranks);
    const std::vector<Outcome> ranks = run_ranks(c, backend, data, num_ranks);
    const std::vector<double> own = data.out_values();
    EXPECT_EQ(std::memcmp(own.data(), out.data(), out.size() * sizeof(double)), 0);
    for (int rank = 0; rank < num_ranks; ++rank) {
      EXPECT_EQ(ranks[rank].count, one.count);
      EXPECT_EQ(ranks[rank].report.reason, one.report.reason);
      EXPECT_EQ(ranks[rank].gathers, 2 * c.shape.batch);
      // Row `set` of sequence b here is row `first + set` there.
      const size_t rows = ranks[rank].indices.size() / c.shape.batch;
      const size_t first = c.select.share == Share::kLayer ? 0 : rank * rows;
      for (int64_t b = 0; b < c.shape.batch; ++b) {
        const size_t all_rows = one.indices.size() / c.shape.batch;
        EXPECT_TRUE(std::equal(ranks[rank].indices.begin() + b * rows,
                               ranks[rank].indices.begin() + (b + 1) * rows,
                               one.indices.begin() + b * all_rows + first))
            << "rank " << rank << ", sequence " << b;
      }
    }
  }
}

std::vector<RankCase> rank_cases() {
  AttentionCase base = {"tau_head", test::self_attention(kTokens, kHeads, kKvHeads, 16),
                        test::small_select(), DenseReason::kNone};
  std::vector<AttentionCase> cases = {base};
  const auto add = [&](const char* name, auto change) {
    cases.push_back(test::vary(base, name, change));
  };
  using Case = AttentionCase;
  add("tau_kv", [](Case& c) { c.select.share = Share::kKv; });
  add("tau_layer", [](Case& c) { c.select.share = Share::kLayer; });
  add("tau_layer_local_batch", [](Case& c) {
    c.select.share = Share::kLayer;
    c.select.fill = Fill::kLocal;
    c.shape.batch = 3;
  });
  add("ratio_layer_chunk", [](Case& c) {
    c.select.share = Share::kLayer;
    c.select.queries = Queries::kAll;
    c.select.budget = BudgetPolicy::kKeepRatio;
    c.shape.seqlen_q = 90;
  });
  add("ratio_head", [](Case& c) { c.select.budget = BudgetPolicy::kKeepRatio; });
  add("reference_rounding", [](Case& c) {
    c.select.arithmetic = Arithmetic::kReferenceRounding;
    c.shape.dtype = c.shape.kv_dtype = DType::kBF16;
  });
  add("reference_rounding_layer", [](Case& c) {
    c.select.arithmetic = Arithmetic::kReferenceRounding;
    c.select.share = Share::kLayer;
  });
  add("sinks_group1", [](Case& c) {
    c.sinks = true;
    c.shape.num_q_heads = c.shape.num_kv_heads = 12;
  });
  // Rank 0 alone holds the NaN; all run dense.
  add("nan_in_one_rank", [](Case& c) {
    c.content = test::Content::kNanInK;
    c.select.budget = BudgetPolicy::kKeepRatio;
    c.reason = DenseReason::kNonFiniteScore;
  });
  add("tau_drops_nothing", [](Case& c) {
    c.select.tau = 1e-12;
    c.reason = DenseReason::kNothingToDrop;
  });
  add("break_even", [](Case& c) {
    c.select.dense_policy = DensePolicy::kBreakEven;
    c.select.tau = 0.01;
    c.reason = DenseReason::kBreakEven;
  });
  std::vector<RankCase> all;
  for (const AttentionCase& c : cases) all.push_back({Backend::kCpu, c});
  for (size_t i : {0, 2}) all.push_back({Backend::kRef, cases[i]});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Cases, Ranks, testing::ValuesIn(rank_cases()), [](const auto& info) {
  return std::string(backend_name(info.param.backend)) + "_" + info.param.attention.name;
});

// ---- what else ranks meet

struct OneRank {
  AttentionCase c = {"rank", test::self_attention(kTokens, 4, 2, 16), test::small_select()};
  CaseData data = test::make_data(c, 1);

  Status run_it(Backend backend, const PlanOptions& ranks, const RunOptions& options,
                const KeepSet& keep = {}) {
    PlanOptions plan_options = ranks;
    plan_options.backend = backend;
    const Result<Plan> plan = make_plan(c.shape, c.select, plan_options);
    if (!plan.ok()) return plan.status();
    test::GuardedBytes workspace(workspace_bytes(*plan));
    AttentionInputs in = data.inputs();
    in.keep = keep;
    return run(*plan, in, data.outputs(), workspace.span(), options);
  }
};

class BadRanks : public testing::TestWithParam<Backend> {};

TEST_P(BadRanks, SayWhatIsWrong) {
  OneRank one;
  constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;
  expect_error(one.run_it(GetParam(), {.num_ranks = 2}, {}), kInvalid,
               {"all_gather is null", "split over 2 ranks"});
  expect_error(one.run_it(GetParam(), {.num_ranks = 0}, {}), kInvalid, {"num_ranks is 0"});
  expect_error(one.run_it(GetParam(), {.num_ranks = 2, .rank = 2}, {}), kInvalid, {"rank is 2"});
  expect_error(one.run_it(GetParam(), {.rank = -1}, {}), kInvalid, {"rank is -1"});
  one.c.shape.num_q_heads = 8;
  expect_error(one.run_it(GetParam(), {.num_ranks = 1024}, {}), kInvalid,
               {"num_q_heads * num_ranks is 8192"});
  one.c.shape.num_q_heads = 4;
  const RunOptions broken = {.all_gather = [](void*, void*, size_t, void*) { return false; }};
  expect_error(one.run_it(GetParam(), {.num_ranks = 2}, broken), StatusCode::kInternal,
               {"all_gather failed"});
}

// Given sets decide everything: nothing is gathered. Nor is it for a dense plan.
TEST_P(BadRanks, GatherOnlyToChoose) {
  OneRank one;
  std::vector<int32_t> indices;
  for (int set = 0; set < 4; ++set) {
    for (int32_t token = 200; token < kTokens; ++token) indices.push_back(token);
  }
  int64_t count = 100;
  const Status given =
      one.run_it(GetParam(), {.num_ranks = 2}, {}, {indices.data(), count, &count});
  EXPECT_TRUE(given.ok()) << given.message();
  one.c.select.enabled = false;
  EXPECT_TRUE(one.run_it(GetParam(), {.num_ranks = 2}, {}).ok());
}

INSTANTIATE_TEST_SUITE_P(Backends, BadRanks, testing::ValuesIn(test::host_backends()),
                         [](const auto& info) { return backend_name(info.param); });

// Packed sequences: each gathers once.
TEST(PackedRanks, GiveTheBitsOfOneCall) {
  const AttentionCase c = {"packed", test::self_attention(500, kHeads, kKvHeads, 16),
                           test::small_select()};
  CaseData data = test::make_data(c, 9);
  const int32_t cu[] = {0, 240, 500};
  const auto run_packed = [&](int num_ranks) {
    data.poison_outputs();
    AllGather all(num_ranks);
    test::for_ranks(num_ranks, [&](int rank) {
      AttentionShape shape = test::shape_of_rank(c.shape, num_ranks);
      shape.packed = true;
      shape.batch = 2;
      shape.seqlen_q = shape.seqlen_kv = 260;
      const Plan plan = make_plan(shape, c.select, {.backend = Backend::kCpu,
                                                    .num_ranks = num_ranks, .rank = rank})
                            .value();
      test::GuardedBytes workspace(workspace_bytes(plan));
      AttentionInputs in = test::inputs_of_rank(data.inputs(), rank, num_ranks);
      in.cu_seqlens_q = in.cu_seqlens_kv = cu;
      AllGather::Rank own{&all, rank};
      const Status status =
          run(plan, in, {.out = test::heads_of_rank(data.out.view(), rank, num_ranks)},
              workspace.span(), {.all_gather = AllGather::gather, .gather_context = &own});
      EXPECT_TRUE(status.ok()) << status.message();
    });
    return data.out_values();
  };
  const std::vector<double> one = run_packed(1), two = run_packed(2);
  EXPECT_EQ(std::memcmp(one.data(), two.data(), one.size() * sizeof(double)), 0);
}

}  // namespace
}  // namespace tokensieve
