// Bad memory of run, select_tokens, compact and scatter, on every backend.
#include <cmath>
#include <functional>
#include <memory>
#include <utility>

#include "core/expect_error.h"
#include "support/backends.h"
#include "support/tensors.h"
#include "tokensieve/attention.h"

namespace tokensieve {
namespace {

using test::expect_error;
using test::Layout;
using test::Tensor;
constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;

constexpr int64_t kTokens = 200, kHeads = 4, kKvHeads = 2, kDim = 16;
constexpr int32_t kWindow = 16;

// A good call, to be broken in one place. All tensors lie in one arena, so that they can overlap.
class BadMemory : public testing::TestWithParam<Backend> {
 protected:
  BadMemory() { make({}); }

  void make(const AttentionShape& changes) {
    AttentionShape shape = changes;
    shape.seqlen_q = shape.seqlen_kv = kTokens;
    shape.num_q_heads = kHeads;
    shape.num_kv_heads = kKvHeads;
    shape.head_dim = kDim;
    SelectConfig select{.budget = BudgetPolicy::kKeepCount, .keep_count = 50,
                        .obs_window = kWindow, .min_keep = 0,
                        .dense_policy = DensePolicy::kNever};
    select.enabled = shape.causal;
    const Result<Plan> made =
        make_plan(shape, select, {.backend = GetParam(), .num_threads = 2});
    ASSERT_TRUE(made.ok()) << made.status().message();
    plan = *made;
    workspace.assign(workspace_bytes(plan), std::byte{0});
    for (Tensor* tensor : {&q, &k, &v, &out, &rows}) {
      std::vector<double> values(static_cast<size_t>(tensor->size()));
      for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i));
      tensor->assign(values);
    }
    in = {.q = q.view(), .k = k.view(), .v = v.view()};
    outputs = {.out = out.view()};
    keep = {indices.data(), capacity, &count};
  }

  Status run_it(const RunOptions& options = {}) {
    return run(plan, in, outputs, workspace, options);
  }
  Status select_it() { return select_tokens(plan, in, keep, workspace); }

  Plan plan;
  int64_t capacity = 50 + kWindow;
  Tensor q{DType::kF32, Layout::kBshd, 1, kTokens, kHeads, kDim};
  Tensor k{DType::kF32, Layout::kBshd, 1, kTokens, kKvHeads, kDim};
  Tensor v{DType::kF32, Layout::kBhsd, 1, kTokens, kKvHeads, kDim};
  Tensor out{DType::kF32, Layout::kPadded, 1, kTokens, kHeads, kDim};
  Tensor rows{DType::kF32, Layout::kBshd, 1, 50 + kWindow, kHeads, kDim};
  std::vector<std::byte> workspace;
  std::vector<int32_t> indices = std::vector<int32_t>(kHeads * (50 + kWindow));
  int64_t count = 0;
  AttentionInputs in;
  AttentionOutputs outputs;
  KeepSet keep;
};

TEST_P(BadMemory, TheGoodCallWorks) {
  const Status status = run_it();
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(select_it().ok());
  EXPECT_EQ(count, capacity);
  EXPECT_TRUE(compact(plan, in.q, keep, rows.view()).ok());
  EXPECT_TRUE(scatter(plan, rows.view(), keep, out.view()).ok());
}

TEST_P(BadMemory, NullPointers) {
  for (const auto& [view, message] : {std::pair{&in.q, "q.data is null"}, {&in.k, "k.data is null"},
                                      {&in.v, "v.data is null"},
                                      {&outputs.out, "out.data is null"}}) {
    void* const data = std::exchange(view->data, nullptr);
    expect_error(run_it(), kInvalid, {message});
    view->data = data;
  }
  keep.indices = nullptr;
  expect_error(select_it(), kInvalid, {"keep.indices is null", "[batch, 4, capacity]"});
  keep = {indices.data(), capacity, nullptr};
  expect_error(select_it(), kInvalid, {"keep.count is null"});
  expect_error(compact(plan, in.q, keep, rows.view()), kInvalid, {"keep.count is null"});
}

TEST_P(BadMemory, WrongShapes) {
  in.q.shape[1] = kTokens - 1;
  expect_error(run_it(), kInvalid, {"q has shape [1, 199, 4, 16]", "needs [1, 200, 4, 16]"});
  in.q = q.view();
  in.k.shape[2] = 3;
  expect_error(run_it(), kInvalid, {"k has shape [1, 200, 3, 16]", "needs [1, 200, 2, 16]"});
  expect_error(select_it(), kInvalid, {"k has shape [1, 200, 3, 16]"});
  in.k = k.view();
  in.v.shape[3] = -16;
  expect_error(run_it(), kInvalid, {"v has shape [1, 200, 2, -16]"});
  in.v = v.view();
  outputs.out.shape[0] = 2;
  expect_error(run_it(), kInvalid, {"out has shape [2, 200, 4, 16]", "needs [1, 200, 4, 16]"});
}

TEST_P(BadMemory, WrongDtypes) {
  in.k.dtype = DType::kBF16;
  expect_error(run_it(), kInvalid, {"k is bf16", "needs f32"});
  in.k = k.view();
  outputs.out.dtype = DType::kF16;
  expect_error(run_it(), kInvalid, {"out is f16", "needs f32"});
  TensorView half = rows.view();
  half.dtype = DType::kF16;
  ASSERT_TRUE(select_it().ok());
  expect_error(compact(plan, in.q, keep, half), kInvalid, {"compacted is f16", "needs f32"});
  TensorView unknown = in.q;
  unknown.dtype = DType(12);
  expect_error(compact(plan, unknown, keep, rows.view()), kInvalid, {"x.dtype is 12", "bf16"});
}

TEST_P(BadMemory, WrongStrides) {
  in.q.strides[3] = 2;
  expect_error(run_it(), kInvalid, {"q.strides[3] is 2", "allowed: 1"});
  in.q = q.view();
  in.q.strides[1] = -64;
  expect_error(run_it(), kInvalid, {"q.strides[1] is -64", "0 (the same rows again)", "16 (head_dim)"});
  in.q.strides[1] = 8;  // rows that overlap in part
  expect_error(run_it(), kInvalid, {"q.strides[1] is 8"});
  in.q.strides[1] = int64_t{1} << 60;  // the extent would overflow
  expect_error(run_it(), kInvalid, {"q.strides[1] is 1152921504606846976"});
  in.q = q.view();
  outputs.out.strides[1] = kDim;
  expect_error(run_it(), kInvalid, {"out.strides[", "its rows overlap"});
  outputs.out = out.view();
  in.v.data = static_cast<char*>(in.v.data) + 1;
  expect_error(run_it(), kInvalid, {"v.data is not aligned", "4-byte f32"});
}

TEST_P(BadMemory, Overlaps) {
  outputs.out = q.view();
  expect_error(run_it(), kInvalid, {"out overlaps q", "a buffer of its own"});
  outputs.out = out.view();
  outputs.lse = static_cast<float*>(in.k.data) + 100;
  expect_error(run_it(), kInvalid, {"lse overlaps k"});
  outputs.lse = static_cast<float*>(outputs.out.data);
  expect_error(run_it(), kInvalid, {"out overlaps lse"});
  outputs.lse = nullptr;
  in.sink_logits = static_cast<float*>(outputs.out.data) + 4;
  expect_error(run_it(), kInvalid, {"out overlaps sink_logits"});
  in.sink_logits = nullptr;

  if (plan.workspace > 0) {  // k and v in the workspace
    std::vector<std::byte> arena(plan.workspace + k.size() * sizeof(float));
    const TensorView inside = bshd(arena.data(), DType::kF32, 1, kTokens, kKvHeads, kDim);
    in.v = inside;
    expect_error(run(plan, in, outputs, arena), kInvalid, {"workspace overlaps v"});
    in.v = v.view();
    expect_error(select_tokens(plan, {.q = in.q, .k = inside}, keep, arena), kInvalid,
                 {"workspace overlaps k"});
  }
  ASSERT_TRUE(select_it().ok());
  TensorView over_x = rows.view();
  over_x.data = in.q.data;
  expect_error(compact(plan, in.q, keep, over_x), kInvalid, {"compacted overlaps x"});
  expect_error(scatter(plan, over_x, keep, in.q), kInvalid, {"out overlaps compacted"});
  TensorView thin = rows.view();
  thin.strides[1] = kDim;
  expect_error(compact(plan, in.q, keep, thin), kInvalid, {"compacted.strides", "rows overlap"});
}

TEST_P(BadMemory, InputsMayOverlapOneAnother) {
  in.v = in.k;
  EXPECT_TRUE(run_it().ok());
}

TensorView expanded(TensorView view, size_t axis) {
  view.strides[axis] = 0;
  return view;
}

Tensor copied(const TensorView& view) {
  std::vector<double> values;
  for (int64_t s = 0; s < view.shape[1]; ++s) {
    for (int64_t h = 0; h < view.shape[2]; ++h) {
      const float* row = static_cast<const float*>(view.data) + s * view.strides[1] +
                         h * view.strides[2];
      values.insert(values.end(), row, row + view.shape[3]);
    }
  }
  Tensor copy(DType::kF32, Layout::kBshd, 1, kTokens, view.shape[2], kDim);
  copy.assign(values);
  return copy;
}

// As torch's expand() makes them: read as if the rows were there. Written rows must be apart.
TEST_P(BadMemory, InputsMayRepeatRows) {
  for (size_t axis : {0u, 1u, 2u}) {
    const AttentionInputs repeated = {.q = expanded(q.view(), axis),
                                      .k = expanded(k.view(), axis),
                                      .v = expanded(v.view(), axis)};
    const Tensor q1 = copied(repeated.q), k1 = copied(repeated.k), v1 = copied(repeated.v);
    in = {.q = q1.view(), .k = k1.view(), .v = v1.view()};
    ASSERT_TRUE(run_it().ok());
    const std::vector<double> expected = out.values();
    in = repeated;
    const Status status = run_it();
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(out.values(), expected) << "axis " << axis;
  }
  in = {.q = q.view(), .k = k.view(), .v = v.view()};
  outputs.out = expanded(out.view(), 1);
  expect_error(run_it(), kInvalid, {"out.strides[1] is 0, so its rows overlap"});
  ASSERT_TRUE(select_it().ok());
  expect_error(compact(plan, in.q, keep, expanded(rows.view(), 2)), kInvalid,
               {"compacted.strides[2] is 0, so its rows overlap"});
}

TEST_P(BadMemory, WorkspaceTooSmall) {
  if (plan.workspace == 0) GTEST_SKIP() << "this backend needs no workspace";
  const std::span<std::byte> all(workspace);
  const std::string needed = "workspace_bytes(plan) = " + std::to_string(plan.workspace);
  expect_error(run(plan, in, outputs, all.first(plan.workspace - 1)),
               StatusCode::kWorkspaceTooSmall,
               {"workspace is " + std::to_string(plan.workspace - 1) + " bytes", needed});
  expect_error(run(plan, in, outputs, {}), StatusCode::kWorkspaceTooSmall,
               {"workspace is 0 bytes", needed});
  expect_error(select_tokens(plan, in, keep, {}), StatusCode::kWorkspaceTooSmall, {needed});
}

TEST_P(BadMemory, TooManyThreads) {
  const std::unique_ptr<Executor> pool = make_thread_pool(3);
  expect_error(run_it({.executor = pool.get()}), kInvalid,
               {"the executor has 3 threads", "num_threads = 2"});
}

TEST_P(BadMemory, KvIndicesOutOfRange) {
  std::vector<int32_t> table(kTokens);
  for (int32_t i = 0; i < kTokens; ++i) table[i] = i;
  in.kv_indices = table.data();
  EXPECT_TRUE(run_it().ok());
  table[77] = kTokens;
  expect_error(run_it(), kInvalid, {"kv_indices[77] is 200", "allowed: 0 to 199"});
  table[77] = -1;
  expect_error(run_it(), kInvalid, {"kv_indices[77] is -1"});
}

TEST_P(BadMemory, Bias) {
  std::vector<uint16_t> bias(kTokens * kTokens, 0);
  in.bias = bias.data();
  in.bias_row_stride = kTokens;
  expect_error(run_it(), kInvalid, {"bias", "causal plan", "causal = false"});
  make({.causal = false});
  in.bias = bias.data();
  in.bias_row_stride = -1;
  expect_error(run_it(), kInvalid, {"bias_row_stride is -1"});
  in.bias_row_stride = kTokens;
  EXPECT_TRUE(run_it().ok());
}

TEST_P(BadMemory, KeepSets) {
  keep.capacity = capacity - 1;
  expect_error(select_it(), kInvalid, {"keep.capacity is 65", "at least 66"});
  keep.capacity = capacity;
  ASSERT_TRUE(select_it().ok());
  const std::vector<int32_t> good = indices;
  indices[capacity + 5] = kTokens;
  expect_error(compact(plan, in.q, keep, rows.view()), kInvalid,
               {"keep.indices[0, 1, 5] is 200", "ascending positions from 0 to 199"});
  indices = good;
  indices[0] = -1;
  expect_error(scatter(plan, rows.view(), keep, out.view()), kInvalid, {"indices[0, 0, 0] is -1"});
  indices = good;
  indices[3] = indices[2];  // two threads would write one row
  expect_error(scatter(plan, rows.view(), keep, out.view()), kInvalid, {"indices[0, 0, 3] is"});
  indices = good;
  count = capacity + 1;
  expect_error(compact(plan, in.q, keep, rows.view()), kInvalid,
               {"keep.count[0] is 67", "0 to keep.capacity (66)", "seqlen_kv (200)"});
  count = -1;
  expect_error(compact(plan, in.q, keep, rows.view()), kInvalid, {"keep.count[0] is -1"});
}

TEST_P(BadMemory, CompactHeads) {
  ASSERT_TRUE(select_it().ok());
  TensorView wrong = rows.view();
  wrong.shape[2] = 3;
  expect_error(compact(plan, in.k, keep, wrong), kInvalid,
               {"compacted has 3 heads", "a multiple of the 2 heads of x"});
  wrong.shape[2] = 8;
  expect_error(compact(plan, in.k, keep, wrong), kInvalid, {"compacted has 8 heads", "at most"});
  TensorView two_heads = out.view();
  two_heads.shape[2] = 2;
  expect_error(scatter(plan, rows.view(), keep, two_heads), kInvalid,
               {"compacted has 4 heads", "exactly the 2 heads of out"});
}

TEST_P(BadMemory, DensePlansHaveNoSelection) {
  make({.causal = false});
  expect_error(select_it(), kInvalid, {"select_tokens needs a sparse plan", "selection is off"});
  expect_error(compact(plan, in.q, keep, rows.view()), kInvalid, {"compact needs a sparse plan"});
  expect_error(scatter(plan, rows.view(), keep, out.view()), kInvalid, {"scatter needs"});
}

TEST_P(BadMemory, APlanThatMakePlanDidNotMake) {
  expect_error(run(Plan{}, in, outputs, workspace), kInvalid, {"make_plan"});
}

TEST_P(BadMemory, CancelledRunsSaySo) {
  const RunOptions options{.should_cancel = [](void*) { return true; }};
  expect_error(run_it(options), StatusCode::kCancelled, {"cancel"});
}

INSTANTIATE_TEST_SUITE_P(Backends, BadMemory, testing::ValuesIn(test::host_backends()),
                         [](const auto& info) { return backend_name(info.param); });

}  // namespace
}  // namespace tokensieve
