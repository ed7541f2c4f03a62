// The case tables of tests/support for the GPU: what the backend supports, in 16-bit types, and a
// matrix of sizes that the CPU tests do not reach.
#pragma once

#include <algorithm>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/device/dispatch.h"
#include "support/cases.h"

namespace tokensieve::cuda::test {

using tokensieve::test::AttentionCase;
using tokensieve::test::Content;
using tokensieve::test::Layout;

inline void set_dtype(AttentionShape& shape, DType dtype) {
  shape.dtype = shape.kv_dtype = shape.out_dtype = dtype;
}

inline bool supported(const AttentionCase& c) {
  const int32_t dim = c.shape.head_dim;
  return c.shape.causal && !c.paged && !c.bias && c.layout != Layout::kHuge &&
         std::find(std::begin(kHeadDims), std::end(kHeadDims), dim) != std::end(kHeadDims);
}

// The shared tables; f32 cases become bf16.
inline std::vector<AttentionCase> table_cases() {
  std::vector<AttentionCase> cases;
  for (AttentionCase c : tokensieve::test::all_cases()) {
    if (!supported(c)) continue;
    set_dtype(c.shape, c.shape.kv_dtype == DType::kF16 ? DType::kF16 : DType::kBF16);
    if (c.reason == DenseReason::kBreakEven) continue;  // another cost model: its own test
    cases.push_back(c);
  }
  return cases;
}

inline SelectConfig matrix_select(Fill fill, Share share, BudgetPolicy budget, double value) {
  SelectConfig select;
  select.fill = fill;
  select.share = share;
  select.budget = budget;
  select.tau = budget == BudgetPolicy::kTau ? value : select.tau;
  select.keep_ratio = budget == BudgetPolicy::kKeepRatio ? value : select.keep_ratio;
  select.min_keep = 128;
  select.dense_policy = DensePolicy::kNever;
  return select;
}

// dtype x head_dim x heads x length x budget, each value at least once with every fill.
inline std::vector<AttentionCase> matrix_cases() {
  struct Size {
    int64_t seqlen;
    int32_t q_heads, kv_heads, dim;
  };
  struct Choice {
    const char* name;
    Fill fill;
    Share share;
    BudgetPolicy budget;
    double value;
  };
  constexpr auto kTau = BudgetPolicy::kTau;
  constexpr auto kRatio = BudgetPolicy::kKeepRatio;
  const Size sizes[] = {{8191, 4, 4, 64},  {8191, 4, 1, 128}, {4097, 8, 2, 128}, {4097, 6, 2, 64},
                        {4097, 4, 4, 256}, {2048, 8, 2, 256}, {2048, 6, 2, 128}, {2048, 4, 1, 64},
                        {1153, 32, 8, 64}, {1153, 8, 2, 128}, {1152, 4, 1, 256}, {1153, 6, 2, 256}};
  const Choice choices[] = {
      {"zero_tau005", Fill::kZero, Share::kHead, kTau, 0.005},
      {"zero_tau05", Fill::kZero, Share::kKv, kTau, 0.05},
      {"zero_tau9", Fill::kZero, Share::kHead, kTau, 0.9},
      {"zero_ratio", Fill::kZero, Share::kLayer, kRatio, 0.37},
      {"local_layer", Fill::kLocal, Share::kLayer, kRatio, 0.2},
      {"local_kv", Fill::kLocal, Share::kKv, kTau, 0.05},
      {"local_head", Fill::kLocal, Share::kHead, kRatio, 0.5}};
  std::vector<AttentionCase> cases;
  int turn = 0;
  for (const Size& size : sizes) {
    for (const Choice& choice : choices) {
      AttentionCase c;
      c.shape = tokensieve::test::self_attention(size.seqlen, size.q_heads, size.kv_heads,
                                                 size.dim);
      set_dtype(c.shape, turn % 3 == 1 ? DType::kF16 : DType::kBF16);
      c.select = matrix_select(choice.fill, choice.share, choice.budget, choice.value);
      c.select.obs_window = turn % 5 == 3 ? 64 : 128;
      c.select.pool_width = turn % 4 == 2 ? 5 : 7;
      c.reason = DenseReason::kNone;
      c.layout = turn % 4 == 1 ? Layout::kBhsd : turn % 4 == 3 ? Layout::kPadded : Layout::kBshd;
      std::ostringstream name;
      name << "n" << size.seqlen << "_h" << size.q_heads << "x" << size.kv_heads << "_d" << size.dim
           << "_" << choice.name;
      c.name = name.str();
      cases.push_back(c);
      ++turn;
    }
  }
  return cases;
}

inline std::vector<AttentionCase> special_cases() {
  std::vector<AttentionCase> cases;
  const auto add = [&](const char* name, int64_t seqlen, int32_t q_heads, int32_t kv_heads,
                       int32_t dim, Fill fill, auto change) {
    AttentionCase c;
    c.name = name;
    c.shape = tokensieve::test::self_attention(seqlen, q_heads, kv_heads, dim);
    set_dtype(c.shape, DType::kBF16);
    c.select = matrix_select(fill, Share::kHead, BudgetPolicy::kTau, 0.05);
    c.reason = DenseReason::kNone;
    change(c);
    cases.push_back(c);
  };
  const auto nothing = [](AttentionCase&) {};
  add("long_zero", 100003, 2, 1, 64, Fill::kZero, nothing);
  add("long_local_layer", 100003, 2, 1, 64, Fill::kLocal, [](AttentionCase& c) {
    c.select.share = Share::kLayer;
    c.select.budget = BudgetPolicy::kKeepRatio;
  });
  add("long_dense", 30011, 2, 1, 128, Fill::kZero, [](AttentionCase& c) {
    c.select.enabled = false;
    c.reason = DenseReason::kDisabled;
  });
  for (Fill fill : {Fill::kZero, Fill::kLocal}) {
    const std::string prefix = fill == Fill::kZero ? "zero_" : "local_";
    const auto both = [&](const char* name, auto change) {
      add((prefix + name).c_str(), 2600, 4, 2, 128, fill, change);
    };
    both("batch3", [](AttentionCase& c) { c.shape.batch = 3; });
    both("batch2_layer_bhsd", [](AttentionCase& c) {
      c.shape.batch = 2;
      c.select.share = Share::kLayer;
      c.layout = Layout::kBhsd;
    });
    both("softcap_sinks", [](AttentionCase& c) {
      c.shape.softcap = 20.0f;
      c.sinks = true;
    });
    both("rounded", [](AttentionCase& c) {
      c.select.arithmetic = Arithmetic::kReferenceRounding;
    });
  }
  // Chunks that answer their kept rows: of many tokens before, of few, beginning inside a block and
  // inside the sinks.
  for (int64_t queries : {1111, 512, 130, 2590, 2599}) {
    add(("part_of_" + std::to_string(queries)).c_str(), 2600, 4, 2, 128, Fill::kLocal,
        [queries](AttentionCase& c) { c.shape.seqlen_q = queries; });
  }
  add("part_layer_d64", 5003, 8, 2, 64, Fill::kLocal, [](AttentionCase& c) {
    c.select.share = Share::kLayer;
    c.select.budget = BudgetPolicy::kKeepRatio;
    c.shape.seqlen_q = 1024;
  });
  add("part_kv_d256_batch", 3000, 4, 2, 256, Fill::kLocal, [](AttentionCase& c) {
    c.select.share = Share::kKv;
    c.shape.seqlen_q = 700;
    c.shape.batch = 2;
  });
  add("part_softcap_sinks", 2600, 4, 2, 128, Fill::kLocal, [](AttentionCase& c) {
    c.shape.seqlen_q = 800;
    c.shape.softcap = 20.0f;
    c.sinks = true;
  });
  add("chunk", 3000, 4, 2, 128, Fill::kZero, [](AttentionCase& c) {
    c.select.queries = Queries::kAll;
    c.shape.seqlen_q = 700;
  });
  add("chunk_batch_layer", 3000, 4, 2, 64, Fill::kZero, [](AttentionCase& c) {
    c.select.queries = Queries::kAll;
    c.select.share = Share::kLayer;
    c.shape.seqlen_q = 512;
    c.shape.batch = 2;
  });
  return cases;
}

}  // namespace tokensieve::cuda::test
