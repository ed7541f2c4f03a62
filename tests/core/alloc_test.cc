// run(), select_tokens(), estimate_blocks(), compact() and scatter() allocate nothing: every
// allocation function of this program counts.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>

#include "support/tensors.h"
#include "tokensieve/attention.h"

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {
std::atomic<int64_t> allocations{0};
}

// operator new of libstdc++ ends here too.
extern "C" {
void* malloc(size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* data, size_t size) {
  ++allocations;
  return __libc_realloc(data, size);
}
void* memalign(size_t alignment, size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void** data, size_t alignment, size_t size) {
  *data = memalign(alignment, size);
  return *data == nullptr ? 12 : 0;  // ENOMEM
}
}

namespace tokensieve {
namespace {

using test::Layout;
using test::Tensor;

struct Mode {
  const char* name;
  DType dtype = DType::kF32;
  int64_t seqlen_q = 1024;
  SelectConfig select;
  BlockConfig blocks = {};
  Products products = Products::kAuto;  // on emulated matrix tiles
};
void PrintTo(const Mode& mode, std::ostream* os) { *os << mode.name; }

constexpr int64_t kTokens = 1024, kHeads = 4, kKvHeads = 2, kDim = 64;

SelectConfig sparse(SelectConfig c) {
  c.obs_window = 32;
  c.min_keep = 0;
  c.dense_policy = DensePolicy::kNever;
  return c;
}

Result<Plan> plan_of(const Mode& mode) {
  return make_plan({.batch = 2,
                    .seqlen_q = mode.seqlen_q,
                    .seqlen_kv = kTokens,
                    .num_q_heads = kHeads,
                    .num_kv_heads = kKvHeads,
                    .head_dim = kDim,
                    .dtype = mode.dtype,
                    .kv_dtype = mode.dtype,
                    .out_dtype = mode.dtype},
                   mode.select, mode.blocks,
                   {.isa = mode.products == Products::kAuto ? Isa::kAuto : Isa::kAmxEmulated,
                    .num_threads = 2,
                    .products = mode.products,
                    .require_products = true});
}

class NoAllocation : public testing::TestWithParam<Mode> {};

TEST_P(NoAllocation, InRun) {
  const Mode& mode = GetParam();
  const Result<Plan> plan = plan_of(mode);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  Tensor q(mode.dtype, Layout::kBshd, 2, mode.seqlen_q, kHeads, kDim);
  Tensor k(mode.dtype, Layout::kBhsd, 2, kTokens, kKvHeads, kDim);
  Tensor v(mode.dtype, Layout::kPadded, 2, kTokens, kKvHeads, kDim);
  Tensor out(mode.dtype, Layout::kBshd, 2, mode.seqlen_q, kHeads, kDim);
  for (Tensor* tensor : {&q, &k, &v}) {
    std::vector<double> values(static_cast<size_t>(tensor->size()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i * 79 % 97) / 97;
    tensor->assign(values);
  }
  std::vector<float> lse(2 * kHeads * kTokens);
  std::vector<std::byte> workspace(workspace_bytes(*plan));
  std::vector<int32_t> indices(2 * kHeads * kTokens);
  int64_t count[2];
  const KeepSet keep = {indices.data(), kTokens, count};
  const std::unique_ptr<Executor> pool = make_thread_pool(2);
  RunReport report;
  const RunOptions options{.executor = pool.get(), .report = &report};
  const AttentionInputs in{.q = q.view(), .k = k.view(), .v = v.view()};
  std::vector<uint32_t> bits(2 * plan->num_masks * plan->row_tiles * plan->mask_words, 0x5555);
  const BlockMask mask = {bits.data(), plan->row_tiles, plan->mask_words, plan->num_masks};
  AttentionInputs given = in;
  if (plan->path == Path::kSparse) given.keep = keep;
  if (mode.blocks.pattern == BlockPattern::kGiven) given.block_mask = mask;
  const AttentionOutputs outputs{.out = out.view(), .lse = lse.data()};

  const int64_t before = allocations;
  // The very first calls count, too.
  Status status, selected, estimated;
  if (given.block_mask.bits == nullptr) status = run(*plan, in, outputs, workspace, options);
  if (plan->path == Path::kSparse) selected = select_tokens(*plan, in, keep, workspace, options);
  const Status again = run(*plan, given, outputs, workspace, options);
  if (mode.blocks.pattern > BlockPattern::kGiven) {
    estimated = estimate_blocks(*plan, given, mask, workspace, options);
  }
  const Status refused = run(*plan, given, outputs, {}, options);
  const int64_t after = allocations;

  EXPECT_EQ(after - before, 0);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(again.ok()) << again.message();
  EXPECT_TRUE(selected.ok()) << selected.message();
  EXPECT_TRUE(estimated.ok()) << estimated.message();
  EXPECT_EQ(refused.code(), StatusCode::kWorkspaceTooSmall);
  EXPECT_EQ(report.path, plan->path);
}

TEST(NoAllocation, InCompactAndScatter) {
  const Result<Plan> plan = plan_of(
      {.name = "kv",
       .select = sparse({.budget = BudgetPolicy::kKeepCount, .keep_count = 4,
                         .share = Share::kKv})});
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  const int64_t capacity = plan->keep_capacity();
  Tensor q(DType::kF32, Layout::kBshd, 2, kTokens, kHeads, kDim);
  Tensor rows(DType::kF32, Layout::kBshd, 2, capacity, kHeads, kDim);
  std::vector<int32_t> indices(static_cast<size_t>(2 * kKvHeads * capacity));
  for (size_t i = 0; i < indices.size(); ++i) {  // 0 to 3, then the last tokens
    const int64_t r = static_cast<int64_t>(i) % capacity;
    indices[i] = static_cast<int32_t>(r < 4 ? r : kTokens - capacity + r);
  }
  int64_t count[2] = {capacity, capacity};
  const KeepSet keep = {indices.data(), capacity, count};
  const std::unique_ptr<Executor> pool = make_thread_pool(2);

  const int64_t before = allocations;
  const Status gathered = compact(*plan, q.view(), keep, rows.view(), {.executor = pool.get()});
  const Status put_back = scatter(*plan, rows.view(), keep, q.view(), {.executor = pool.get()});
  const int64_t after = allocations;

  EXPECT_EQ(after - before, 0);
  EXPECT_TRUE(gathered.ok()) << gathered.message();
  EXPECT_TRUE(put_back.ok()) << put_back.message();
}

TEST(NoAllocation, TheCounterCounts) {
  const int64_t before = allocations;
  auto value = std::make_unique<std::vector<int>>(1000);
  value->push_back(1);
  EXPECT_GE(allocations - before, 3);
}

INSTANTIATE_TEST_SUITE_P(
    Cpu, NoAllocation,
    testing::Values(
        Mode{.name = "dense", .select = {.enabled = false}},
        Mode{.name = "zero_tau", .select = sparse({.tau = 0.1})},
        Mode{.name = "zero_tau_reference",
             .select = sparse({.tau = 0.1, .arithmetic = Arithmetic::kReferenceRounding})},
        Mode{.name = "zero_kv",
             .select = sparse({.budget = BudgetPolicy::kKeepRatio, .share = Share::kKv})},
        Mode{.name = "local_head", .select = sparse({.budget = BudgetPolicy::kKeepRatio,
                                                     .fill = Fill::kLocal, .local_window = 64})},
        Mode{.name = "local_layer_f16", .dtype = DType::kF16,
             .select = sparse({.budget = BudgetPolicy::kKeepRatio, .share = Share::kLayer,
                               .fill = Fill::kLocal, .local_window = 64})},
        Mode{.name = "local_layer_bf16", .dtype = DType::kBF16,
             .select = sparse({.budget = BudgetPolicy::kKeepRatio, .share = Share::kLayer,
                               .fill = Fill::kLocal, .local_window = 64})},
        Mode{.name = "part", .seqlen_q = 256,
             .select = sparse({.budget = BudgetPolicy::kKeepRatio, .share = Share::kLayer,
                               .fill = Fill::kLocal, .local_window = 64})},
        Mode{.name = "chunk", .seqlen_q = 256,
             .select = sparse({.budget = BudgetPolicy::kKeepRatio, .share = Share::kLayer,
                               .fill = Fill::kLocal, .queries = Queries::kAll})},
        Mode{.name = "dense_split", .dtype = DType::kF16, .select = {.enabled = false},
             .products = Products::kSplit},
        Mode{.name = "local_bf16_products",
             .select = sparse({.budget = BudgetPolicy::kKeepRatio, .fill = Fill::kLocal,
                               .local_window = 64}),
             .products = Products::kBf16},
        Mode{.name = "dense_mask", .select = {.enabled = false},
             .blocks = {.pattern = BlockPattern::kGiven}},
        Mode{.name = "local_mask", .select = sparse({.budget = BudgetPolicy::kKeepRatio,
                                                     .fill = Fill::kLocal, .local_window = 64}),
             .blocks = {.pattern = BlockPattern::kGiven}},
        Mode{.name = "dense_flex", .select = {.enabled = false},
             .blocks = {.pattern = BlockPattern::kFlex, .min_budget = 128}},
        Mode{.name = "dense_flex_map", .select = {.enabled = false},
             .blocks = {.pattern = BlockPattern::kFlex, .flex_tau = 2.0, .min_budget = 128}},
        Mode{.name = "dense_pooled", .select = {.enabled = false},
             .blocks = {.pattern = BlockPattern::kPooled}},
        Mode{.name = "local_antidiagonal",
             .select = sparse({.budget = BudgetPolicy::kKeepRatio, .fill = Fill::kLocal,
                               .local_window = 64}),
             .blocks = {.pattern = BlockPattern::kAntidiagonal}},
        Mode{.name = "dense_vertical_slash", .select = {.enabled = false},
             .blocks = {.pattern = BlockPattern::kVerticalSlash, .slashes = 100}},
        Mode{.name = "local_vertical_slash",
             .select = sparse({.budget = BudgetPolicy::kKeepRatio, .fill = Fill::kLocal,
                               .local_window = 64}),
             .blocks = {.pattern = BlockPattern::kVerticalSlash, .slashes = 100}}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tokensieve
