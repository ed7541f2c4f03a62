// Sets that the caller gives (AttentionInputs::keep), on the host backends.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/expect_error.h"
#include "support/backends.h"
#include "support/case_data.h"
#include "support/compare.h"

namespace tokensieve {
namespace {

using test::AttentionCase;
using test::CaseData;
using test::expect_error;
constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;

// Memory of a KeepSet.
struct Sets {
  std::vector<int32_t> indices;
  std::vector<int64_t> count;
  int64_t capacity;

  Sets(int64_t batch, int64_t num_sets, int64_t rows)
      : indices(batch * num_sets * rows, -1), count(batch, -1), capacity(rows) {}
  explicit Sets(const Plan& plan)
      : Sets(plan.shape.batch, plan.num_sets,
             plan.keep_capacity()) {}
  KeepSet view() { return {indices.data(), capacity, count.data()}; }
};

struct Outcome {
  std::vector<double> out;
  std::vector<float> lse;
  RunReport report;
};

Status run_in_fresh_memory(const Plan& plan, CaseData& data, const KeepSet& keep,
                           Outcome& outcome) {
  data.poison_outputs();
  test::GuardedBytes workspace(workspace_bytes(plan));
  AttentionInputs in = data.inputs();
  in.keep = keep;
  const Status status =
      run(plan, in, data.outputs(), workspace.span(), {.report = &outcome.report});
  EXPECT_TRUE(workspace.guards_intact());
  outcome.out = data.out_values();
  outcome.lse = data.lse;
  return status;
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

class GivenSets : public testing::TestWithParam<std::tuple<Backend, AttentionCase>> {
 protected:
  Backend backend() const { return std::get<0>(GetParam()); }
  const AttentionCase& attention() const { return std::get<1>(GetParam()); }
};

// What select would choose, given, is the same run; also where a sequence of the batch is dense.
TEST_P(GivenSets, TheChosenOnesGiveTheSameBits) {
  const AttentionCase& c = attention();
  CaseData data = test::make_data(c, 1);
  const Plan plan = make_plan(c.shape, c.select, {.backend = backend()}).value();
  Sets sets(plan);
  test::GuardedBytes workspace(workspace_bytes(plan));
  RunReport selected;
  ASSERT_TRUE(select_tokens(plan, data.inputs(), sets.view(), workspace.span(),
                            {.report = &selected})
                  .ok());

  Outcome chosen, given;
  ASSERT_TRUE(run_in_fresh_memory(plan, data, {}, chosen).ok());
  const std::vector<int32_t> before = sets.indices;
  const Status status = run_in_fresh_memory(plan, data, sets.view(), given);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(same_bits(chosen.out, given.out));
  EXPECT_TRUE(same_bits(chosen.lse, given.lse));
  EXPECT_EQ(before, sets.indices) << "only read";
  EXPECT_EQ(given.report.keep_count, chosen.report.keep_count);
  EXPECT_EQ(given.report.work, chosen.report.work);
  EXPECT_EQ(selected.work, chosen.report.work);
  EXPECT_EQ(given.report.path, chosen.report.path);
}

std::vector<AttentionCase> cpu_cases() {
  return test::cases_where([](const AttentionCase& c) {
    return c.reason == DenseReason::kNone || c.name == "corner_nan_in_one_of_batch";
  });
}

// The oracle is slow.
std::vector<AttentionCase> ref_cases() {
  return test::cases_where([](const AttentionCase& c) {
    return c.name == "zero_batch" || c.name == "local_layer" || c.name == "chunk_head";
  });
}

const auto kCaseName = [](const auto& info) { return std::get<1>(info.param).name; };
INSTANTIATE_TEST_SUITE_P(Cpu, GivenSets,
                         testing::Combine(testing::Values(Backend::kCpu),
                                          testing::ValuesIn(cpu_cases())),
                         kCaseName);
INSTANTIATE_TEST_SUITE_P(Ref, GivenSets,
                         testing::Combine(testing::Values(Backend::kRef),
                                          testing::ValuesIn(ref_cases())),
                         kCaseName);

// A plan that takes sets of up to `most` prefix tokens, as attention.h says.
SelectConfig takes_up_to(int64_t most, SelectConfig select = test::small_select()) {
  select.budget = BudgetPolicy::kKeepCount;
  select.keep_count = most;
  select.min_keep = 0;
  select.dense_policy = DensePolicy::kNever;
  return select;
}

// `prefix` random tokens of every set, then all after the prefix.
Sets random_sets(const Plan& plan, int64_t prefix, uint64_t seed) {
  const AttentionShape& s = plan.shape;
  const int64_t after = s.seqlen_kv - plan.prefix_len;
  Sets sets(s.batch, plan.num_sets, prefix + after + 3);
  test::Random random(seed);
  for (int64_t row = 0; row < s.batch * plan.num_sets; ++row) {
    std::vector<int32_t> tokens(plan.prefix_len);
    std::iota(tokens.begin(), tokens.end(), 0);
    for (int64_t i = 0; i < prefix; ++i) {
      std::swap(tokens[i], tokens[i + random.below(plan.prefix_len - i)]);
    }
    std::sort(tokens.begin(), tokens.begin() + prefix);
    int32_t* to = sets.indices.data() + row * sets.capacity;
    std::copy_n(tokens.begin(), prefix, to);
    std::iota(to + prefix, to + prefix + after, static_cast<int32_t>(plan.prefix_len));
  }
  std::fill(sets.count.begin(), sets.count.end(), prefix + after);
  return sets;
}

struct FreeCase {
  const char* name;
  AttentionShape shape;
  SelectConfig select;
  int64_t prefix;
};

class FreeSets : public testing::TestWithParam<FreeCase> {};

TEST_P(FreeSets, MatchTheOracle) {
  const FreeCase& f = GetParam();
  const AttentionCase c = {f.name, f.shape, f.select};
  CaseData data = test::make_data(c, 7);
  const Plan plan = make_plan(c.shape, c.select, {.backend = Backend::kCpu}).value();
  ASSERT_EQ(plan.path, Path::kSparse);
  Sets sets = random_sets(plan, f.prefix, 3);
  sets.count.back() = c.shape.batch > 1 ? c.shape.seqlen_kv : sets.count.back();
  Outcome outcome;
  const Status status = run_in_fresh_memory(plan, data, sets.view(), outcome);
  ASSERT_TRUE(status.ok()) << status.message();

  AttentionInputs in = data.inputs();
  in.keep = sets.view();
  ref::OracleResult expected;
  ASSERT_TRUE(ref::run_oracle(plan, in, {}, expected).ok());
  const AttentionShape& s = c.shape;
  EXPECT_TRUE(test::close(outcome.out, expected.out, test::output_tolerance(c),
                          {s.batch, s.seqlen_q, s.num_q_heads, s.head_dim}));
  EXPECT_TRUE(
      test::close(outcome.lse, expected.lse, 1e-5, {s.batch, s.num_q_heads, s.seqlen_q}));
  EXPECT_EQ(outcome.report.keep_count, expected.report.keep_count);
  EXPECT_EQ(outcome.report.work, expected.report.work);
  EXPECT_EQ(outcome.report.reason, c.shape.batch > 1 ? DenseReason::kNothingToDrop
                                                     : DenseReason::kNone);
}

SelectConfig with(SelectConfig select, Share share, Fill fill, Queries queries) {
  select.share = share;
  select.fill = fill;
  select.queries = queries;
  return select;
}

AttentionShape batch_of(int64_t batch, AttentionShape shape) {
  shape.batch = batch;
  return shape;
}

constexpr Queries kKept = Queries::kKept;
INSTANTIATE_TEST_SUITE_P(
    Cases, FreeSets,
    testing::Values(
        FreeCase{"zero_none", test::self_attention(300, 4, 2, 64), takes_up_to(1), 0},
        FreeCase{"zero_some", test::self_attention(300, 4, 2, 64), takes_up_to(90), 61},
        FreeCase{"local_none", test::self_attention(450, 4, 2, 64),
                 with(takes_up_to(1), Share::kLayer, Fill::kLocal, kKept), 0},
        FreeCase{"local_kv", batch_of(3, test::self_attention(450, 4, 2, 64)),
                 with(takes_up_to(100), Share::kKv, Fill::kLocal, kKept), 100},
        FreeCase{"part", batch_of(3, test::suffix_attention(290, 700, 6, 3, 64)),
                 with(takes_up_to(150), Share::kKv, Fill::kLocal, kKept), 150},
        FreeCase{"chunk", test::suffix_attention(90, 300, 4, 2, 64),
                 with(takes_up_to(50), Share::kHead, Fill::kZero, Queries::kAll), 17},
        FreeCase{"below_min_keep", test::self_attention(300, 4, 2, 64),
                 SelectConfig{.tau = 0.1, .obs_window = 32, .min_keep = 100,
                              .dense_policy = DensePolicy::kNever},
                 5}),
    [](const auto& info) { return info.param.name; });

// ---- errors

class BadGivenSets : public testing::TestWithParam<Backend> {
 protected:
  BadGivenSets() { make(takes_up_to(40)); }
  void make(const SelectConfig& select) {
    plan = make_plan(c.shape, select, {.backend = GetParam()}).value();
    if (plan.path == Path::kSparse) sets = random_sets(plan, 40, 1);
  }
  Status run_it() { return run_in_fresh_memory(plan, data, sets.view(), outcome); }

  AttentionCase c = {"given", test::self_attention(200, 4, 2, 64)};
  CaseData data = test::make_data(c, 1);
  Plan plan;
  Sets sets{0, 0, 0};
  Outcome outcome;
};

TEST_P(BadGivenSets, SayWhatIsWrong) {
  ASSERT_TRUE(run_it().ok());
  const Sets good = sets;
  const auto refuse = [&](auto change, std::initializer_list<std::string> words) {
    sets = good;
    change();
    expect_error(run_it(), kInvalid, words);
  };
  const int64_t capacity = good.capacity;
  refuse([&] { sets.count[0] = 31; }, {"keep.count[0] is 31", "32", "to 72", "200, all tokens"});
  refuse([&] { sets.count[0] = 73; }, {"keep.count[0] is 73", "larger keep_count"});
  refuse([&] { sets.count[0] = -1; }, {"keep.count[0] is -1"});
  refuse([&] { sets.indices[capacity + 4] = sets.indices[capacity + 3]; },
         {"keep.indices[0, 1, 4]", "ascending positions"});
  refuse([&] { sets.indices[0] = -1; }, {"keep.indices[0, 0, 0] is -1"});
  refuse([&] { sets.indices[71] = 200; }, {"keep.indices[0, 0, 71] is 200"});
  refuse([&] { sets.count[0] = 71; }, {"does not end with the last 32 tokens", "entry 39"});

  sets = good;
  AttentionInputs in = data.inputs();
  in.keep = {nullptr, sets.capacity, sets.count.data()};
  test::GuardedBytes workspace(workspace_bytes(plan));
  const auto with_inputs = [&] { return run(plan, in, data.outputs(), workspace.span()); };
  expect_error(with_inputs(), kInvalid, {"keep.indices is null"});
  in.keep = {sets.indices.data(), sets.capacity, nullptr};
  expect_error(with_inputs(), kInvalid, {"keep.count is null"});
  in.keep = {sets.indices.data(), 0, sets.count.data()};
  expect_error(with_inputs(), kInvalid, {"keep.capacity is 0"});
  in.keep = sets.view();
  expect_error(select_tokens(plan, in, sets.view(), workspace.span()), kInvalid,
               {"inputs.keep was given to select_tokens"});
  in.keep.indices = static_cast<int32_t*>(data.out.view().data);
  expect_error(with_inputs(), kInvalid, {"keep.indices"});
}

TEST_P(BadGivenSets, NeedASparsePlan) {
  const Sets good = sets;
  make({.enabled = false});
  sets = good;
  expect_error(run_it(), kInvalid, {"the plan is dense: selection is off", "keep_count"});
}

INSTANTIATE_TEST_SUITE_P(Backends, BadGivenSets, testing::ValuesIn(test::host_backends()),
                         [](const auto& info) { return backend_name(info.param); });

// ---- packed: every sequence with its own sets, one of them dense

class PackedGivenSets : public testing::TestWithParam<Queries> {};

// Two chunks and a dense sequence between them.
TEST_P(PackedGivenSets, EqualTheSequencesOneByOne) {
  const std::vector<int32_t> cu_q = {0, 150, 210, 410}, cu_kv = {0, 230, 290, 600};
  SelectConfig select = takes_up_to(60);
  select.queries = GetParam();
  if (select.queries == Queries::kKept) select.fill = Fill::kLocal;
  const AttentionCase rows = {"packed", test::suffix_attention(410, 600, 4, 2, 64)};
  CaseData data = test::make_data(rows, 2);
  AttentionShape shape = rows.shape;
  shape.packed = true;
  shape.batch = 3;
  shape.seqlen_q = 200;
  shape.seqlen_kv = 310;
  const Plan plan = make_plan(shape, select, {.backend = Backend::kCpu}).value();
  Sets sets(plan);
  for (int64_t b : {0, 2}) {
    AttentionShape one = rows.shape;
    one.seqlen_q = cu_q[b + 1] - cu_q[b];
    one.seqlen_kv = cu_kv[b + 1] - cu_kv[b];
    const Plan alone = make_plan(one, select, {.backend = Backend::kCpu}).value();
    const Sets own = random_sets(alone, 20 + 10 * b, 5 + b);
    for (int64_t set = 0; set < plan.num_sets; ++set) {
      std::copy_n(own.indices.begin() + set * own.capacity, own.count[0],
                  sets.indices.begin() + (b * plan.num_sets + set) * sets.capacity);
    }
    sets.count[b] = own.count[0];
  }
  sets.count[1] = 60;

  AttentionInputs in = data.inputs();
  in.cu_seqlens_q = cu_q.data();
  in.cu_seqlens_kv = cu_kv.data();
  in.keep = sets.view();
  test::GuardedBytes workspace(workspace_bytes(plan));
  RunReport report;
  const Status status =
      run(plan, in, {.out = data.out.view()}, workspace.span(), {.report = &report});
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(report.keep_count, sets.count[0] + 60 + sets.count[2]);
  const std::vector<double> packed = data.out_values();

  for (size_t b = 0; b < 3; ++b) {
    AttentionShape one = rows.shape;
    one.seqlen_q = cu_q[b + 1] - cu_q[b];
    one.seqlen_kv = cu_kv[b + 1] - cu_kv[b];
    const bool dense = b == 1;
    SelectConfig own_select = select;
    own_select.enabled = !dense;
    const Plan alone = make_plan(one, own_select, {.backend = Backend::kRef}).value();
    AttentionInputs own = data.inputs();
    const auto slice = [](TensorView& view, int64_t begin, int64_t count) {
      view.data = static_cast<float*>(view.data) + begin * view.strides[1];
      view.shape[1] = count;
    };
    slice(own.q, cu_q[b], one.seqlen_q);
    slice(own.k, cu_kv[b], one.seqlen_kv);
    slice(own.v, cu_kv[b], one.seqlen_kv);
    if (!dense) {
      own.keep = {sets.indices.data() + static_cast<int64_t>(b) * plan.num_sets * sets.capacity,
                  sets.capacity, sets.count.data() + b};
    }
    ref::OracleResult expected;
    ASSERT_TRUE(ref::run_oracle(alone, own, {}, expected).ok());
    const std::vector<double> actual(packed.begin() + cu_q[b] * 256,
                                     packed.begin() + cu_q[b + 1] * 256);
    EXPECT_TRUE(test::close(actual, expected.out, 1e-5, {one.seqlen_q, 4, 64})) << b;
  }

  sets.count[0] = 230 - 1;
  const int64_t suffix = select.queries == Queries::kKept ? select.obs_window : 150;
  expect_error(run(plan, in, {.out = data.out.view()}, workspace.span()), kInvalid,
               {"keep.count[0] is 229", "to " + std::to_string(60 + suffix), "230, all tokens"});
}

INSTANTIATE_TEST_SUITE_P(Queries, PackedGivenSets,
                         testing::Values(Queries::kKept, Queries::kAll),
                         [](const auto& info) {
                           return info.param == Queries::kKept ? "kept" : "all";
                         });

}  // namespace
}  // namespace tokensieve
