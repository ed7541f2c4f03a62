// The case table of stages_test.cc.
#pragma once

#include <vector>

#include "cuda/backend_cases.h"

namespace tokensieve::cuda::test {

struct StageCase {
  const char* name;
  DType dtype = DType::kBF16;
  int dim = 128;
  int q_heads = 8;
  int kv_heads = 2;
  int batch = 1;
  int seqlen = 2048;   // of keys; packed: of the longest sequence
  int queries = 0;     // 0: as many as keys
  int window = 128;
  bool chunk = false;  // queries = all: all queries are kept, not only the window
  Fill fill = Fill::kZero;  // changes no stage that is tested
  Share share = Share::kHead;
  SelectConfig select = {};
  double q_scale = 3.0;
  float softcap = 0.0f;
  bool sinks = false;
  bool packed = false;
  Layout layout = Layout::kBshd;
  double poison_key = -1.0;  // >= 0: NaN in K at this share of the sequence
};

inline Result<Plan> plan_of(const StageCase& c) {
  AttentionShape shape = {.batch = c.batch,
                          .seqlen_q = c.queries == 0 ? c.seqlen : c.queries,
                          .seqlen_kv = c.seqlen,
                          .num_q_heads = c.q_heads,
                          .num_kv_heads = c.kv_heads,
                          .head_dim = c.dim,
                          .softcap = c.softcap,
                          .packed = c.packed};
  set_dtype(shape, c.dtype);
  SelectConfig select = c.select;
  select.obs_window = c.window;
  select.share = c.share;
  select.fill = c.fill;
  select.queries = c.chunk ? Queries::kAll : Queries::kKept;
  select.dense_policy = DensePolicy::kNever;
  return make_plan(shape, select, {.backend = Backend::kCuda});
}

inline SelectConfig config(BudgetPolicy budget, double value, int pool = 7, int64_t min_keep = 64,
                           int protect = 0, Arithmetic arithmetic = Arithmetic::kFp32) {
  SelectConfig select;
  select.budget = budget;
  if (budget == BudgetPolicy::kTau) select.tau = value;
  if (budget == BudgetPolicy::kKeepRatio) select.keep_ratio = value;
  if (budget == BudgetPolicy::kKeepCount) select.keep_count = static_cast<int64_t>(value);
  select.pool_width = pool;
  select.min_keep = min_keep;
  select.protect_first = protect;
  select.arithmetic = arithmetic;
  return select;
}
inline constexpr auto kTau = BudgetPolicy::kTau;
inline constexpr auto kRatio = BudgetPolicy::kKeepRatio;
inline constexpr auto kCount = BudgetPolicy::kKeepCount;
inline constexpr auto kRounded = Arithmetic::kReferenceRounding;

inline std::vector<StageCase> stage_cases() {
  constexpr auto kF16 = DType::kF16;
  constexpr auto kv = Share::kKv;
  constexpr auto layer = Share::kLayer;
  return {
      {.name = "d128 8/2 2048", .select = config(kTau, 0.005)},
      {.name = "d128 f16", .dtype = kF16, .select = config(kTau, 0.05)},
      {.name = "d64 8/2 1153", .dim = 64, .seqlen = 1153, .select = config(kTau, 0.05)},
      {.name = "d64 f16 pool 5", .dtype = kF16, .dim = 64, .seqlen = 4097,
       .select = config(kTau, 0.005, 5)},
      {.name = "d256 8/2", .dim = 256, .seqlen = 2049, .select = config(kTau, 0.05)},
      {.name = "d256 f16 6/2", .dtype = kF16, .dim = 256, .q_heads = 6, .seqlen = 1500,
       .select = config(kTau, 0.05)},
      {.name = "4/4 bf16 rounding", .q_heads = 4, .kv_heads = 4, .seqlen = 3000,
       .select = config(kTau, 0.005, 7, 64, 0, kRounded)},
      {.name = "6/2 kv", .q_heads = 6, .seqlen = 2500, .share = kv,
       .select = config(kTau, 0.05)},
      {.name = "4/1 layer", .q_heads = 4, .kv_heads = 1, .seqlen = 4000, .share = layer,
       .select = config(kRatio, 0.2)},
      {.name = "9/3 d64 layer rounding", .dim = 64, .q_heads = 9, .kv_heads = 3, .seqlen = 5001,
       .share = layer, .select = config(kTau, 0.05, 7, 64, 4, kRounded)},
      {.name = "32/8 8192", .q_heads = 32, .kv_heads = 8, .seqlen = 8192,
       .select = config(kTau, 0.005)},
      {.name = "32/8 8191 rounding", .q_heads = 32, .kv_heads = 8, .seqlen = 8191,
       .select = config(kTau, 0.005, 7, 1024, 0, kRounded)},
      {.name = "32/8 33000 head", .q_heads = 32, .kv_heads = 8, .seqlen = 33000,
       .select = config(kTau, 0.005)},
      {.name = "32/8 32999 rounding", .q_heads = 32, .kv_heads = 8, .seqlen = 32999,
       .select = config(kTau, 0.005, 7, 1024, 0, kRounded)},
      {.name = "32/8 33000 layer .2", .q_heads = 32, .kv_heads = 8, .seqlen = 33000,
       .share = layer, .select = config(kRatio, 0.2, 7, 64, 4)},
      {.name = "32/8 20000 kv tau .9", .q_heads = 32, .kv_heads = 8, .seqlen = 20000,
       .share = kv, .select = config(kTau, 0.9)},
      {.name = "window 64", .seqlen = 1200, .window = 64, .select = config(kTau, 0.05)},
      {.name = "window 37 pool 9", .seqlen = 999, .window = 37, .select = config(kTau, 0.05, 9)},
      {.name = "window 300", .seqlen = 1999, .window = 300, .select = config(kTau, 0.05)},
      {.name = "window 512 d256", .dim = 256, .seqlen = 1999, .window = 512,
       .select = config(kTau, 0.05)},
      {.name = "window 512 d128 6/2", .q_heads = 6, .seqlen = 3001, .window = 512,
       .select = config(kTau, 0.05, 1)},
      {.name = "window 1", .seqlen = 700, .window = 1, .select = config(kTau, 0.05)},
      {.name = "300 tokens", .seqlen = 300, .select = config(kTau, 0.05, 7, 8)},
      {.name = "batch 2 strided", .batch = 2, .seqlen = 1777, .select = config(kTau, 0.05),
       .layout = Layout::kPadded},
      {.name = "packed 3", .batch = 3, .seqlen = 3001, .select = config(kTau, 0.05),
       .packed = true},
      {.name = "packed 3 layer rounding", .dim = 64, .batch = 3, .seqlen = 1500, .share = layer,
       .select = config(kTau, 0.05, 7, 64, 4, kRounded), .packed = true},
      {.name = "chunk suffix 640", .seqlen = 4000, .queries = 640, .chunk = true, .share = kv,
       .select = config(kRatio, 0.3)},
      {.name = "packed 3 chunks", .batch = 3, .seqlen = 3000, .queries = 2200, .chunk = true,
       .select = config(kTau, 0.05), .packed = true},
      {.name = "queries 200 of 3000", .seqlen = 3000, .queries = 200, .fill = Fill::kLocal,
       .select = config(kCount, 500, 7, 8)},
      {.name = "softcap", .select = config(kTau, 0.05), .softcap = 20.0f},
      {.name = "softcap d64 sinks", .dim = 64, .seqlen = 1700, .select = config(kTau, 0.05),
       .softcap = 5.0f, .sinks = true},
      {.name = "sinks f16", .dtype = kF16, .seqlen = 1700, .select = config(kTau, 0.05),
       .sinks = true},
      {.name = "protect 100", .seqlen = 3000, .select = config(kCount, 150, 7, 8, 100)},
      {.name = "protect = keep", .seqlen = 3000, .select = config(kCount, 50, 7, 8, 90)},
      {.name = "min_keep 1024", .seqlen = 3000, .select = config(kTau, 0.9, 7, 1024)},
      // One sequence alone would be planned dense: the second, of 1062 tokens, is found to be.
      {.name = "short: dense", .batch = 2, .seqlen = 1600,
       .select = config(kTau, 0.05, 7, 1024), .packed = true},
      {.name = "one head peaky", .q_heads = 1, .kv_heads = 1, .seqlen = 2345,
       .select = config(kTau, 0.05), .q_scale = 12.0f},
      {.name = "NaN key: dense", .seqlen = 2000, .select = config(kTau, 0.05),
       .poison_key = 0.4f},
      {.name = "d256 32/8 9000", .dim = 256, .q_heads = 32, .kv_heads = 8, .seqlen = 9000,
       .select = config(kTau, 0.05)},
      {.name = "d256 8/1 40001 softcap", .dim = 256, .kv_heads = 1, .seqlen = 40001,
       .share = layer, .select = config(kRatio, 0.1), .softcap = 30.0f},
      {.name = "d64 f16 32/4 30000 softcap", .dtype = kF16, .dim = 64, .q_heads = 32,
       .kv_heads = 4, .seqlen = 30000, .window = 64, .share = kv,
       .select = config(kRatio, 0.3), .softcap = 30.0f},
      {.name = "100003 tokens 4/1", .q_heads = 4, .kv_heads = 1, .seqlen = 100003,
       .select = config(kTau, 0.005)},
      {.name = "100003 layer rounding", .q_heads = 4, .kv_heads = 1, .seqlen = 100003,
       .share = layer, .select = config(kTau, 0.05, 5, 1024, 4, kRounded)},
  };
}

}  // namespace tokensieve::cuda::test
