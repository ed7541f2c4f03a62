// What make_plan decides, and why.
#include "core/plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "core/expect_error.h"
#include "core/work.h"
#include "tokensieve/attention.h"
#include "tokensieve/names.h"

namespace tokensieve {
namespace {

AttentionShape prompt(int64_t tokens, int32_t q_heads = 4, int32_t kv_heads = 2) {
  return {.seqlen_q = tokens,
          .seqlen_kv = tokens,
          .num_q_heads = q_heads,
          .num_kv_heads = kv_heads,
          .head_dim = 64};
}

Plan plan_of(const AttentionShape& shape, const SelectConfig& select,
             const PlanOptions& options = {}) {
  const Result<Plan> plan = make_plan(shape, select, options);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  return plan.ok() ? *plan : Plan{};
}

DenseReason reason_of(const AttentionShape& shape, const SelectConfig& select) {
  const Plan plan = plan_of(shape, select);
  EXPECT_EQ(plan.path == Path::kSparse, plan.reason == DenseReason::kNone);
  return plan.reason;
}

TEST(Plan, ResolvesWhatWasLeftOpen) {
  const Plan plan = plan_of(prompt(8192), {.budget = BudgetPolicy::kKeepRatio, .min_keep = 0});
  EXPECT_EQ(plan.options.backend, Backend::kCpu);
  EXPECT_NE(plan.options.isa, Isa::kAuto);
  EXPECT_FLOAT_EQ(plan.shape.sm_scale, 1.0f / 8.0f);
  EXPECT_EQ(plan.path, Path::kSparse);
  EXPECT_EQ(plan.prefix_len, 8192 - 128);
  EXPECT_EQ(plan.max_keep, static_cast<int64_t>(0.2 * (8192 - 128)));
}

TEST(Plan, SetsFollowShare) {
  SelectConfig c{.budget = BudgetPolicy::kKeepRatio};
  EXPECT_EQ(plan_of(prompt(16384, 12, 3), c).num_sets, 12);
  c.share = Share::kKv;
  EXPECT_EQ(plan_of(prompt(16384, 12, 3), c).num_sets, 3);
  c.share = Share::kLayer;
  EXPECT_EQ(plan_of(prompt(16384, 12, 3), c).num_sets, 1);
}

TEST(Plan, DenseReasons) {
  const SelectConfig good{.budget = BudgetPolicy::kKeepRatio};
  EXPECT_EQ(reason_of(prompt(16384), good), DenseReason::kNone);

  SelectConfig c = good;
  c.enabled = false;
  EXPECT_EQ(reason_of(prompt(16384), c), DenseReason::kDisabled);
  EXPECT_EQ(reason_of(prompt(16384), {.tau = 0.0}), DenseReason::kDisabled);

  AttentionShape suffix = prompt(16384);
  suffix.seqlen_q = 127;
  EXPECT_EQ(reason_of(suffix, good), DenseReason::kFewQueries);

  AttentionShape full = prompt(16384);
  full.causal = false;
  EXPECT_EQ(reason_of(full, good), DenseReason::kNotSparsifiable);

  c = good;
  c.keep_ratio = 1.0;
  EXPECT_EQ(reason_of(prompt(16384), c), DenseReason::kNothingToDrop);
  c.keep_ratio = 0.6;
  c.min_drop = 0.5;
  EXPECT_EQ(reason_of(prompt(16384), c), DenseReason::kNothingToDrop);

  c = good;
  c.keep_ratio = 0.99;
  EXPECT_EQ(reason_of(prompt(2048), c), DenseReason::kBreakEven);
  c.dense_policy = DensePolicy::kNever;
  EXPECT_EQ(reason_of(prompt(2048), c), DenseReason::kNone);
}

TEST(Plan, ShortPromptsAreDenseUpToMinKeepPlusWindow) {
  const SelectConfig c{.dense_policy = DensePolicy::kNever};  // min_keep 1024, obs_window 128
  EXPECT_EQ(reason_of(prompt(1), {.obs_window = 1, .min_keep = 0}), DenseReason::kShortPrompt);
  EXPECT_EQ(reason_of(prompt(128), c), DenseReason::kShortPrompt);
  EXPECT_EQ(reason_of(prompt(1152), c), DenseReason::kShortPrompt);
  EXPECT_EQ(reason_of(prompt(1153), c), DenseReason::kNone);
}

TEST(Plan, DensePlansHoldNoSelection) {
  const Plan plan = plan_of(prompt(100), {});
  EXPECT_EQ(plan.prefix_len, 0);
  EXPECT_EQ(plan.max_keep, 0);
  EXPECT_EQ(plan.num_sets, 0);
}

TEST(Plan, ChunksSelectOnlyInThePast) {
  AttentionShape chunk = prompt(8192);
  chunk.seqlen_q = 512;
  SelectConfig c{.budget = BudgetPolicy::kKeepRatio, .keep_ratio = 0.25, .min_keep = 0,
                 .fill = Fill::kLocal, .queries = Queries::kAll};
  const Plan plan = plan_of(chunk, c);
  EXPECT_EQ(plan.path, Path::kSparse);
  EXPECT_EQ(plan.prefix_len, 8192 - 512);
  EXPECT_EQ(plan.max_keep, (8192 - 512) / 4);
  EXPECT_EQ(plan.select.protect_first, c.sinks);  // local fill's sinks survive in chunks too
  EXPECT_EQ(reason_of(prompt(512), c), DenseReason::kShortPrompt);  // no past yet
}

TEST(Plan, MaxKeepIsTheMostThatRunsSparse) {
  const Plan plan = plan_of(prompt(16384), {});
  EXPECT_EQ(plan.path, Path::kSparse);
  EXPECT_EQ(dense_after_budget(plan, plan.max_keep), DenseReason::kNone);
  EXPECT_EQ(dense_after_budget(plan, plan.max_keep + 1), DenseReason::kBreakEven);
  EXPECT_EQ(plan_of(prompt(16384), {.dense_policy = DensePolicy::kNever}).max_keep,
            plan.prefix_len - 1);
  const Plan half = plan_of(prompt(16384), {.min_drop = 0.5});
  EXPECT_EQ(half.max_keep, half.prefix_len / 2);
  EXPECT_LT(half.workspace, plan.workspace);
  EXPECT_EQ(dense_after_budget(plan, plan.prefix_len), DenseReason::kNothingToDrop);
  EXPECT_EQ(dense_after_budget(plan, plan.prefix_len - 1), DenseReason::kBreakEven);
  EXPECT_EQ(dense_after_budget(plan, 1024), DenseReason::kNone);
}

TEST(Plan, IsDeterministicAndCopyable) {
  const Plan a = plan_of(prompt(16384), {});
  const Plan b = a;
  EXPECT_EQ(a.workspace, b.workspace);
  EXPECT_EQ(plan_of(prompt(16384), {}).workspace, a.workspace);
}

// ---- Products ----

AttentionShape f16_prompt() {
  AttentionShape shape = prompt(300);
  shape.kv_dtype = DType::kF16;
  return shape;
}

TEST(PlanProducts, AreExactUnlessAskedFor) {
  const Plan plan = plan_of(f16_prompt(), {}, {.require_products = true});
  EXPECT_EQ(plan.options.products, Products::kExact);
  EXPECT_EQ(plan.products_reason, ProductsReason::kNone);
}

// What cannot be had becomes exact, with the reason; insisted on, it is an error.
void expect_exact(const AttentionShape& shape, PlanOptions options, ProductsReason reason) {
  const Plan plan = plan_of(shape, {}, options);
  EXPECT_EQ(plan.options.products, Products::kExact);
  EXPECT_EQ(plan.products_reason, reason) << products_reason_text(plan.products_reason);
  options.require_products = true;
  test::expect_error(make_plan(shape, {}, options).status(), StatusCode::kUnsupported,
                     {std::string("products = ") + name_of(options.products),
                      products_reason_text(reason), "use exact"});
}

TEST(PlanProducts, SayWhyTheyAreExact) {
  const PlanOptions split = {.backend = Backend::kCpu, .products = Products::kSplit};
  const PlanOptions bf16 = {.backend = Backend::kCpu, .products = Products::kBf16};
  expect_exact(prompt(300), split, ProductsReason::kF32Keys);
  AttentionShape full = f16_prompt();
  full.causal = false;
  expect_exact(full, bf16, ProductsReason::kNotCausal);
  for (PlanOptions options : {split, bf16}) {
    options.isa = supported_isas().front();
    expect_exact(f16_prompt(), options, ProductsReason::kNoTiles);
    options.backend = Backend::kRef;
    expect_exact(f16_prompt(), options, ProductsReason::kBackend);
  }
  const BlockConfig columns = {.pattern = BlockPattern::kVerticalSlash};
  const Plan plan = make_plan(f16_prompt(), {.enabled = false}, columns, bf16).value();
  EXPECT_EQ(plan.options.products, Products::kExact);
  EXPECT_EQ(plan.products_reason, ProductsReason::kColumns);
}

TEST(PlanProducts, AreWhatIsAskedForOnTiles) {
  for (const Products products : {Products::kSplit, Products::kBf16}) {
    const PlanOptions options = {
        .isa = Isa::kAmxEmulated, .products = products, .require_products = true};
    const Plan plan = plan_of(f16_prompt(), {}, options);
    EXPECT_EQ(plan.options.products, products);
    EXPECT_EQ(plan.options.isa, Isa::kAmxEmulated);
    EXPECT_EQ(plan.products_reason, ProductsReason::kNone);
    // Planned again from what was resolved, nothing changes.
    EXPECT_EQ(plan_of(f16_prompt(), {}, plan.options).options.products, products);
  }
}

// Where a dense pair is cheaper, so must be what selection saves.
TEST(PlanProducts, MoveTheBreakEven) {
  AttentionShape shape = f16_prompt();
  shape.seqlen_q = shape.seqlen_kv = 8192;
  const auto most = [&](Products products) {
    return plan_of(shape, {.fill = Fill::kLocal}, {.isa = Isa::kAmxEmulated, .products = products})
        .max_keep;
  };
  EXPECT_LT(most(Products::kSplit), most(Products::kExact));
  EXPECT_LT(most(Products::kBf16), most(Products::kSplit));
}

// ---- Workspace ----

size_t workspace_of(int64_t tokens, double keep_ratio, int threads, int64_t batch = 1) {
  AttentionShape shape = prompt(tokens);
  shape.batch = batch;
  return workspace_bytes(plan_of(shape,
                                 {.budget = BudgetPolicy::kKeepRatio, .keep_ratio = keep_ratio,
                                  .min_keep = 0, .share = Share::kLayer, .fill = Fill::kLocal,
                                  .dense_policy = DensePolicy::kNever},
                                 {.num_threads = threads}));
}

TEST(Workspace, GrowsWithLengthKeepAndThreads) {
  size_t last = 0;
  for (const int64_t tokens : {512, 1024, 4096, 4097, 65536}) {
    const size_t bytes = workspace_of(tokens, 0.2, 2);
    EXPECT_GE(bytes, last) << tokens;
    last = bytes;
  }
  last = 0;
  for (const double keep : {0.01, 0.1, 0.5, 0.9}) {
    const size_t bytes = workspace_of(8192, keep, 2);
    EXPECT_GE(bytes, last) << keep;
    last = bytes;
  }
  last = 0;
  for (const int threads : {1, 2, 3, 16}) {
    const size_t bytes = workspace_of(8192, 0.2, threads);
    EXPECT_GE(bytes, last) << threads;
    last = bytes;
  }
}

TEST(Workspace, DoesNotGrowWithTheBatch) {
  EXPECT_EQ(workspace_of(8192, 0.2, 2, 1), workspace_of(8192, 0.2, 2, 16));
}

// ---- Never slower ----

TEST(NeverSlower, SparsePlansComputeFewerPairs) {
  for (const int64_t tokens : {600, 1200, 2048, 8192, 32768, 131072}) {
    for (const double keep : {0.01, 0.1, 0.2, 0.5, 0.8, 0.95}) {
      for (const Fill fill : {Fill::kZero, Fill::kLocal}) {
        for (const Share share : {Share::kHead, Share::kLayer}) {
          const Plan plan = plan_of(prompt(tokens), {.budget = BudgetPolicy::kKeepRatio,
                                                     .keep_ratio = keep,
                                                     .min_keep = 0,
                                                     .share = share,
                                                     .fill = fill});
          if (plan.path == Path::kDense) continue;
          const double pairs = sparse_pairs(plan, plan.max_keep).all() / dense_pairs(plan.shape);
          EXPECT_LT(pairs, 0.95) << tokens << " tokens, keep " << keep;
        }
      }
    }
  }
}

TEST(NeverSlower, LongPromptsWithFewKeptTokensRunSparse) {
  for (const int64_t tokens : {8192, 32768, 131072}) {
    EXPECT_EQ(reason_of(prompt(tokens), {.budget = BudgetPolicy::kKeepRatio, .keep_ratio = 0.2,
                                         .share = Share::kLayer, .fill = Fill::kLocal}),
              DenseReason::kNone);
  }
}

TEST(NeverSlower, KeepingNearlyAllRunsDense) {
  for (const int64_t tokens : {2048, 8192, 131072}) {
    EXPECT_EQ(reason_of(prompt(tokens), {.budget = BudgetPolicy::kKeepRatio, .keep_ratio = 0.98}),
              DenseReason::kBreakEven);
  }
}

// A window as wide as the prompt costs as much as dense attention.
TEST(NeverSlower, WideLocalWindowsRunDense) {
  EXPECT_EQ(reason_of(prompt(8192), {.budget = BudgetPolicy::kKeepRatio, .keep_ratio = 0.2,
                                     .fill = Fill::kLocal, .local_window = 8192}),
            DenseReason::kBreakEven);
}

TEST(Pairs, CountCausalPairs) {
  EXPECT_EQ(dense_pairs({.seqlen_q = 4, .seqlen_kv = 4}), 10);
  EXPECT_EQ(dense_pairs({.seqlen_q = 2, .seqlen_kv = 4}), 7);  // rows see 3 and 4 keys
  EXPECT_EQ(dense_pairs({.seqlen_q = 2, .seqlen_kv = 4, .causal = false}), 8);
}

}  // namespace
// The break-even model of block masks: tiles that a pattern forces are most of a short prompt's.
TEST(PlanBlocks, ShortPromptsTakeNoEstimate) {
  const AttentionShape shape = {.seqlen_q = 16384, .seqlen_kv = 16384, .num_q_heads = 9,
                                .num_kv_heads = 3, .head_dim = 64};
  const auto pattern = [&](const SelectConfig& select, const BlockConfig& blocks) {
    return make_plan(shape, select, blocks).value().blocks.pattern;
  };
  const SelectConfig all = {.enabled = false};
  const SelectConfig few = {.budget = BudgetPolicy::kKeepRatio, .keep_ratio = 0.1, .min_keep = 0};
  const BlockConfig flex = {.pattern = BlockPattern::kFlex};
  EXPECT_EQ(pattern(all, flex), BlockPattern::kFlex);
  // 14 row tiles of kept tokens, of whose key tiles lines cover at least 8.
  EXPECT_EQ(pattern(few, flex), BlockPattern::kNone);
  BlockConfig less = flex;
  less.min_budget = 128;
  EXPECT_EQ(pattern(few, less), BlockPattern::kFlex);
  SelectConfig never = few;
  never.dense_policy = DensePolicy::kNever;
  EXPECT_EQ(pattern(never, flex), BlockPattern::kFlex);
  BlockConfig wide = {.pattern = BlockPattern::kPooled, .window_tiles = 126};
  EXPECT_EQ(pattern(all, wide), BlockPattern::kNone);
  wide.window_tiles = 4;
  EXPECT_EQ(pattern(all, wide), BlockPattern::kPooled);
}

}  // namespace tokensieve
