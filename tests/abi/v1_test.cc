// An old C program (v1_program.c) and today's C++ call give the same plan, rows and sets.
#include <gtest/gtest.h>

#include <ostream>
#include <random>
#include <vector>

#include "abi/v1_program.h"
#include "tokensieve/attention.h"

namespace tokensieve {
namespace {

struct V1Case {
  const char* name;
  AttentionShape shape;
  SelectConfig select;
};

void PrintTo(const V1Case& c, std::ostream* out) { *out << c.name; }

std::vector<float> values(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> made(static_cast<size_t>(count));
  for (float& value : made) value = normal(random);
  return made;
}

// A case's tensors, and what a call of it writes.
struct Data {
  explicit Data(const AttentionShape& s)
      : q(values(s.batch * s.seqlen_q * s.num_q_heads * s.head_dim, 1)),
        k(values(s.batch * s.seqlen_kv * s.num_kv_heads * s.head_dim, 2)),
        v(values(s.batch * s.seqlen_kv * s.num_kv_heads * s.head_dim, 3)),
        sinks(values(s.num_q_heads, 4)) {}
  std::vector<float> q, k, v, sinks;
};

struct Written {
  explicit Written(const AttentionShape& s)
      : out(static_cast<size_t>(s.batch * s.seqlen_q * s.num_q_heads * s.head_dim)),
        lse(static_cast<size_t>(s.batch * s.seqlen_q * s.num_q_heads)),
        indices(static_cast<size_t>(s.batch * s.num_q_heads * s.seqlen_kv), -1),
        count(static_cast<size_t>(s.batch), -1) {}
  bool operator==(const Written&) const = default;
  std::vector<float> out, lse;
  std::vector<int32_t> indices;
  std::vector<int64_t> count;
};

v1_call call_of(const V1Case& c, const Data& data, Backend backend, bool born_sizes) {
  const AttentionShape& s = c.shape;
  const SelectConfig& w = c.select;
  return {.backend = static_cast<int32_t>(backend),
          .born_sizes = born_sizes,
          .batch = s.batch,
          .seqlen_q = s.seqlen_q,
          .seqlen_kv = s.seqlen_kv,
          .num_q_heads = s.num_q_heads,
          .num_kv_heads = s.num_kv_heads,
          .head_dim = s.head_dim,
          .sm_scale = s.sm_scale,
          .softcap = s.softcap,
          .enabled = w.enabled,
          .budget = static_cast<int32_t>(w.budget),
          .share = static_cast<int32_t>(w.share),
          .fill = static_cast<int32_t>(w.fill),
          .queries = static_cast<int32_t>(w.queries),
          .arithmetic = static_cast<int32_t>(w.arithmetic),
          .dense_policy = static_cast<int32_t>(w.dense_policy),
          .tau = w.tau,
          .keep_ratio = w.keep_ratio,
          .min_drop = w.min_drop,
          .keep_count = w.keep_count,
          .min_keep = w.min_keep,
          .obs_window = w.obs_window,
          .pool_width = w.pool_width,
          .protect_first = w.protect_first,
          .local_window = w.local_window,
          .sinks = w.sinks,
          .q = data.q.data(),
          .k = data.k.data(),
          .v = data.v.data(),
          .sink_logits = data.sinks.data()};
}

AttentionInputs inputs_of(const AttentionShape& s, const Data& d) {
  return {.q = bshd(d.q.data(), s.dtype, s.batch, s.seqlen_q, s.num_q_heads, s.head_dim),
          .k = bshd(d.k.data(), s.dtype, s.batch, s.seqlen_kv, s.num_kv_heads, s.head_dim),
          .v = bshd(d.v.data(), s.dtype, s.batch, s.seqlen_kv, s.num_kv_heads, s.head_dim),
          .sink_logits = d.sinks.data()};
}

void expect_same(const V1Case& c, Backend backend, bool born_sizes) {
  const AttentionShape& s = c.shape;
  const Data data(s);
  const Result<Plan> plan = make_plan(s, c.select, {.backend = backend});
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  std::vector<std::byte> workspace(workspace_bytes(*plan));
  Written today(s);
  RunReport report;
  const AttentionInputs inputs = inputs_of(s, data);
  const Status ran = run(*plan, inputs,
                         {.out = bshd(today.out.data(), s.dtype, s.batch, s.seqlen_q, s.num_q_heads,
                                      s.head_dim),
                          .lse = today.lse.data()},
                         workspace, {.report = &report});
  ASSERT_TRUE(ran.ok()) << ran.message();
  const bool sparse = plan->path == Path::kSparse;
  const int64_t capacity = sparse ? plan->keep_capacity() : 0;
  if (sparse) {
    const KeepSet sets = {today.indices.data(), capacity, today.count.data()};
    ASSERT_TRUE(select_tokens(*plan, inputs, sets, workspace).ok());
  }

  const v1_call call = call_of(c, data, backend, born_sizes);
  Written then(s);
  v1_answer answer = {.out = then.out.data(),
                      .lse = then.lse.data(),
                      .indices = then.indices.data(),
                      .count = then.count.data()};
  ASSERT_EQ(v1_run(&call, &answer), 0) << answer.message;
  EXPECT_STREQ(answer.message, "");
  EXPECT_EQ(answer.workspace_bytes, workspace.size());
  EXPECT_EQ(answer.path, static_cast<int32_t>(plan->path));
  EXPECT_EQ(answer.reason, static_cast<int32_t>(plan->reason));
  EXPECT_EQ(answer.num_sets, plan->num_sets);
  EXPECT_EQ(answer.prefix_len, plan->prefix_len);
  EXPECT_EQ(answer.keep_capacity, capacity);
  EXPECT_EQ(answer.run_path, static_cast<int32_t>(report.path));
  EXPECT_EQ(answer.run_reason, static_cast<int32_t>(report.reason));
  EXPECT_EQ(answer.keep_total, report.keep_count);
  EXPECT_EQ(answer.keep_ratio, report.keep_ratio);
  EXPECT_EQ(answer.work, report.work);
  EXPECT_TRUE(then == today) << "rows, lse and sets are the same bits";
}

class AbiV1 : public testing::TestWithParam<V1Case> {};

TEST_P(AbiV1, IsTodaysCall) {
  for (const Backend backend : {Backend::kRef, Backend::kCpu}) {
    for (const bool born_sizes : {false, true}) {
      SCOPED_TRACE(testing::Message() << backend_name(backend) << ", born sizes " << born_sizes);
      expect_same(GetParam(), backend, born_sizes);
    }
  }
}

TEST(AbiV1Init, StaysInsideTheOldStructs) {
  const char* overflows = v1_init_that_overflows();
  EXPECT_EQ(overflows, nullptr) << overflows;
}

const AttentionShape kPrompt = {.batch = 2, .seqlen_q = 300, .seqlen_kv = 300, .num_q_heads = 4,
                                .num_kv_heads = 2, .head_dim = 32, .softcap = 20.0f};
const AttentionShape kChunk = {.seqlen_q = 80, .seqlen_kv = 300, .num_q_heads = 4,
                               .num_kv_heads = 2, .head_dim = 16, .sm_scale = 0.3f};

// Together they set every field to something else than its default.
INSTANTIATE_TEST_SUITE_P(
    Cases, AbiV1,
    testing::Values(
        V1Case{"tau", kPrompt, {.tau = 0.1, .obs_window = 16, .min_keep = 8,
                                .dense_policy = DensePolicy::kNever}},
        V1Case{"ratio_kv_local", kPrompt,
               {.budget = BudgetPolicy::kKeepRatio, .keep_ratio = 0.3, .obs_window = 32,
                .pool_width = 5, .min_keep = 20, .protect_first = 3, .share = Share::kKv,
                .fill = Fill::kLocal, .local_window = 64, .sinks = 7,
                .dense_policy = DensePolicy::kNever}},
        V1Case{"count_layer_rounded", kPrompt,
               {.budget = BudgetPolicy::kKeepCount, .keep_count = 50, .obs_window = 16,
                .min_keep = 0, .share = Share::kLayer,
                .arithmetic = Arithmetic::kReferenceRounding,
                .dense_policy = DensePolicy::kNever}},
        V1Case{"chunk", kChunk,
               {.budget = BudgetPolicy::kKeepCount, .keep_count = 50, .obs_window = 16,
                .min_keep = 0, .queries = Queries::kAll, .dense_policy = DensePolicy::kNever}},
        V1Case{"drops_too_little", kPrompt,
               {.budget = BudgetPolicy::kKeepRatio, .keep_ratio = 0.5, .obs_window = 16,
                .min_keep = 8, .min_drop = 0.9}},
        V1Case{"disabled", kChunk, {.enabled = false}}),
    [](const testing::TestParamInfo<V1Case>& info) { return info.param.name; });

}  // namespace
}  // namespace tokensieve
