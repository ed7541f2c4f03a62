// The case tables that every backend is held against, as data. make_data (case_data.h) turns a row
// into tensors.
#pragma once

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "support/tensors.h"
#include "tokensieve/attention.h"

namespace tokensieve::test {

// What q, k and v hold.
enum class Content {
  kHeavyHitters,  // a few tokens draw much of the attention, as in real prompts
  kTies,          // q is zero: all scores are equal
  kOneHot,        // one prefix token draws everything, the others' weights underflow to 0
  kNanInQ,        // one NaN in the newest query of head 0, sequence 0
  kNanInK,        // one NaN in a prefix key of kv head 0, sequence 0
  kInfInK,        // one +inf there
  kNanInV,        // one NaN in a prefix value of kv head 0, sequence 0
};

struct AttentionCase {
  std::string name;  // of letters, digits and _
  AttentionShape shape;
  SelectConfig select = {.enabled = false};
  // Why the first dense sequence is dense; kNone: all run sparse.
  DenseReason reason = DenseReason::kDisabled;
  Layout layout = Layout::kBshd;
  Content content = Content::kHeavyHitters;
  bool sinks = false;   // sink_logits
  bool paged = false;   // kv_indices: rows permuted, others poisoned
  bool bias = false;    // f16 bias with a causal mask, ALiBi-like distances, one masked row
  bool slopes = false;  // bias_slopes
};

inline AttentionShape self_attention(int64_t seqlen, int32_t q_heads, int32_t kv_heads,
                                     int32_t head_dim) {
  return {.seqlen_q = seqlen,
          .seqlen_kv = seqlen,
          .num_q_heads = q_heads,
          .num_kv_heads = kv_heads,
          .head_dim = head_dim};
}

inline AttentionShape suffix_attention(int64_t seqlen_q, int64_t seqlen_kv, int32_t q_heads,
                                       int32_t kv_heads, int32_t head_dim) {
  AttentionShape shape = self_attention(seqlen_kv, q_heads, kv_heads, head_dim);
  shape.seqlen_q = seqlen_q;
  return shape;
}

// Small windows and floors, so that small cases are sparse; the tau budget.
inline SelectConfig small_select() {
  return {.tau = 0.1,
          .obs_window = 32,
          .min_keep = 16,
          .local_window = 64,
          .dense_policy = DensePolicy::kNever};
}

// A row: `base` changed by a lambda.
template <typename F>
AttentionCase vary(AttentionCase base, std::string name, F&& change) {
  base.name = std::move(name);
  change(base);
  return base;
}

// Dense attention: every size, dtype, layout and feature.
inline std::vector<AttentionCase> dense_cases() {
  using Case = AttentionCase;
  const Case base = {"dense", self_attention(200, 4, 2, 64)};
  std::vector<Case> cases = {base};
  for (int64_t seqlen : {1, 2, 15, 63, 64, 65, 127, 129, 257}) {
    cases.push_back(vary(base, "dense_n" + std::to_string(seqlen),
                         [&](Case& c) { c.shape.seqlen_q = c.shape.seqlen_kv = seqlen; }));
  }
  for (int32_t dim : {16, 32, 48, 80, 96, 112, 128, 192, 240, 256}) {
    cases.push_back(vary(base, "dense_d" + std::to_string(dim), [&](Case& c) {
      c.shape.head_dim = dim;
      c.shape.seqlen_q = c.shape.seqlen_kv = 131;
    }));
  }
  for (auto [q_heads, kv_heads] : {std::pair{1, 1}, {3, 1}, {9, 3}, {8, 2}, {8, 1}, {5, 5}}) {
    const std::string name = std::to_string(q_heads) + "x" + std::to_string(kv_heads);
    cases.push_back(vary(base, "dense_heads" + name, [&](Case& c) {
      c.shape.num_q_heads = q_heads;
      c.shape.num_kv_heads = kv_heads;
      c.shape.seqlen_q = c.shape.seqlen_kv = 97;
    }));
  }
  for (auto [q, kv] : {std::pair{1, 300}, {2, 129}, {37, 211}, {64, 65}, {128, 400}}) {
    const std::string name = std::to_string(q) + "of" + std::to_string(kv);
    cases.push_back(vary(base, "dense_suffix" + name, [&](Case& c) {
      c.shape.seqlen_q = q;
      c.shape.seqlen_kv = kv;
    }));
  }
  for (DType q : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (DType kv : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (DType out : {DType::kF32, DType::kF16, DType::kBF16}) {
        const std::string name =
            std::string("dense_") + dtype_name(q) + "_" + dtype_name(kv) + "_" + dtype_name(out);
        cases.push_back(vary(base, name, [&](Case& c) {
          c.shape.seqlen_q = c.shape.seqlen_kv = 70;
          c.shape.dtype = q;
          c.shape.kv_dtype = kv;
          c.shape.out_dtype = out;
        }));
      }
    }
  }
  const auto add = [&](const char* name, auto change) {
    cases.push_back(vary(base, name, change));
  };
  add("dense_bhsd", [](Case& c) { c.layout = Layout::kBhsd; });
  add("dense_padded", [](Case& c) { c.layout = Layout::kPadded; });
  add("dense_huge_strides", [](Case& c) {
    c.layout = Layout::kHuge;
    c.shape.num_q_heads = c.shape.num_kv_heads = 1;
    c.shape.seqlen_q = c.shape.seqlen_kv = 300;
  });
  add("dense_batch", [](Case& c) { c.shape.batch = 3; });
  add("dense_full", [](Case& c) { c.shape.causal = false; });
  add("dense_full_suffix", [](Case& c) {
    c.shape.causal = false;
    c.shape.seqlen_q = 70;
  });
  add("dense_scale", [](Case& c) { c.shape.sm_scale = 0.31f; });
  add("dense_softcap", [](Case& c) { c.shape.softcap = 5.0f; });
  add("dense_sinks", [](Case& c) { c.sinks = true; });
  add("dense_paged", [](Case& c) { c.paged = true, c.shape.batch = 2; });
  add("dense_paged_padded_bf16", [](Case& c) {
    c.paged = true;
    c.layout = Layout::kPadded;
    c.shape.kv_dtype = DType::kBF16;
    c.shape.seqlen_q = 130;
  });
  const auto add_bias = [&](const char* name, auto change) {
    cases.push_back(vary(base, name, [&](Case& c) {
      c.bias = true;
      c.shape.causal = false;
      change(c);
    }));
  };
  add_bias("dense_bias", [](Case&) {});
  add_bias("dense_bias_suffix_f16", [](Case& c) {
    c.shape.seqlen_q = 65;
    c.shape.kv_dtype = DType::kF16;
  });
  add_bias("dense_bias_slopes_batch", [](Case& c) { c.slopes = true, c.shape.batch = 2; });
  add_bias("dense_bias_everything", [](Case& c) {
    c.slopes = c.sinks = c.paged = true;
    c.shape.softcap = 8.0f;
    c.shape.seqlen_q = 77;
    c.layout = Layout::kBhsd;
  });
  add("dense_nan_in_q", [](Case& c) { c.content = Content::kNanInQ; });
  add("dense_nan_in_k", [](Case& c) { c.content = Content::kNanInK; });
  add("dense_inf_in_k", [](Case& c) { c.content = Content::kInfInK; });
  add("dense_nan_in_v", [](Case& c) { c.content = Content::kNanInV; });
  add("dense_ties", [](Case& c) { c.content = Content::kTies; });
  add("dense_one_hot", [](Case& c) { c.content = Content::kOneHot; });
  return cases;
}

// Sparse attention: fill x share x (whole prompts, chunks), then each feature crossed with them.
inline std::vector<AttentionCase> sparse_cases() {
  using Case = AttentionCase;
  const Case zero = {"zero", self_attention(450, 4, 2, 64), small_select(), DenseReason::kNone};
  Case local = zero;
  local.select.fill = Fill::kLocal;
  local.select.budget = BudgetPolicy::kKeepRatio;
  Case part = local;  // chunked prefill: the call has the newest third
  part.shape.seqlen_q = 150;
  Case chunk = zero;  // and keeps all queries
  chunk.select.queries = Queries::kAll;
  chunk.shape.seqlen_q = 150;

  std::vector<Case> cases;
  for (const auto& [kind, base] :
       {std::pair<std::string, const Case&>{"zero", zero}, {"local", local}, {"part", part},
        {"chunk", chunk}}) {
    const auto add = [&, prefix = kind + "_", &from = base](const char* name, auto change) {
      cases.push_back(vary(from, prefix + name, change));
    };
    add("head", [](Case&) {});
    add("kv", [](Case& c) { c.select.share = Share::kKv; });
    add("layer", [](Case& c) { c.select.share = Share::kLayer; });
    add("ratio_odd", [](Case& c) {
      c.select.budget = BudgetPolicy::kKeepRatio;
      c.select.keep_ratio = 0.37;
    });
    add("count_one", [](Case& c) {
      c.select.budget = BudgetPolicy::kKeepCount;
      c.select.keep_count = 1;
      c.select.min_keep = 0;
    });
    add("count_protect", [](Case& c) {
      c.select.budget = BudgetPolicy::kKeepCount;
      c.select.keep_count = 50;
      c.select.protect_first = 20;
    });
    add("protect_all_kept", [](Case& c) {
      c.select.budget = BudgetPolicy::kKeepCount;
      c.select.keep_count = 1;
      c.select.protect_first = 33;
    });
    add("group1", [](Case& c) { c.shape.num_q_heads = c.shape.num_kv_heads = 3; });
    add("group3_kv", [](Case& c) {
      c.shape.num_q_heads = 9;
      c.shape.num_kv_heads = 3;
      c.select.share = Share::kKv;
    });
    add("group4_d128", [](Case& c) {
      c.shape.num_kv_heads = 1;
      c.shape.head_dim = 128;
    });
    add("group8_layer", [](Case& c) {
      c.shape.num_q_heads = 8;
      c.shape.num_kv_heads = 1;
      c.select.share = Share::kLayer;
    });
    add("d80_bf16", [](Case& c) {
      c.shape.head_dim = 80;
      c.shape.dtype = c.shape.kv_dtype = c.shape.out_dtype = DType::kBF16;
    });
    add("d256_kv_f16", [](Case& c) {
      c.shape.head_dim = 256;
      c.shape.kv_dtype = DType::kF16;
    });
    add("f16", [](Case& c) { c.shape.dtype = c.shape.kv_dtype = c.shape.out_dtype = DType::kF16; });
    add("bhsd", [](Case& c) { c.layout = Layout::kBhsd; });
    add("padded_kv", [](Case& c) {
      c.layout = Layout::kPadded;
      c.select.share = Share::kKv;
    });
    add("huge_strides", [](Case& c) {
      c.layout = Layout::kHuge;
      c.shape.num_q_heads = c.shape.num_kv_heads = 1;
    });
    add("batch", [](Case& c) { c.shape.batch = 3; });
    add("batch_layer_padded", [](Case& c) {
      c.shape.batch = 2;
      c.select.share = Share::kLayer;
      c.layout = Layout::kPadded;
    });
    add("paged", [](Case& c) { c.paged = true, c.shape.batch = 2; });
    add("sinks", [](Case& c) { c.sinks = true; });
    add("softcap_scale", [](Case& c) {
      c.shape.softcap = 6.0f;
      c.shape.sm_scale = 0.2f;
    });
    add("pool1", [](Case& c) { c.select.pool_width = 1; });
    add("pool_wide", [](Case& c) { c.select.pool_width = 1001; });
    add("window1", [](Case& c) { c.select.obs_window = 1; });
    add("window_odd", [](Case& c) { c.select.obs_window = 77; });
    add("window_large", [](Case& c) { c.select.obs_window = 149; });
    add("odd_length", [](Case& c) { c.shape.seqlen_kv += 1, c.shape.seqlen_q += 1; });
    add("reference_rounding", [](Case& c) {
      c.select.arithmetic = Arithmetic::kReferenceRounding;
      c.shape.dtype = c.shape.kv_dtype = DType::kBF16;
    });
    add("ties", [](Case& c) { c.content = Content::kTies; });
    add("one_hot", [](Case& c) { c.content = Content::kOneHot; });
    add("nan_in_v", [](Case& c) { c.content = Content::kNanInV; });
    add("everything", [](Case& c) {
      c.shape.batch = 2;
      c.shape.softcap = 9.0f;
      c.shape.head_dim = 96;
      c.shape.num_q_heads = 6;
      c.shape.kv_dtype = DType::kBF16;
      c.select.share = Share::kKv;
      c.select.protect_first = 3;
      c.layout = Layout::kPadded;
      c.paged = c.sinks = true;
    });
  }
  for (const auto& [kind, base] :
       {std::pair<std::string, const Case&>{"zero", zero}, {"local", local}}) {
    cases.push_back(vary(base, kind + "_long", [](Case& c) {
      c.shape = self_attention(1300, 2, 1, 64);
      c.select.share = Share::kLayer;
    }));
  }
  for (const auto& [kind, base] :
       {std::pair<std::string, const Case&>{"local", local}, {"part", part}}) {
    const auto add = [&, prefix = kind + "_", &from = base](const char* name, auto change) {
      cases.push_back(vary(from, prefix + name, change));
    };
    add("window0", [](Case& c) { c.select.local_window = 0; });
    add("window_whole", [](Case& c) { c.select.local_window = 1 << 20; });
    add("sinks0", [](Case& c) { c.select.sinks = 0; });
    add("sinks64", [](Case& c) { c.select.sinks = 64; });
    add("sinks0_window0", [](Case& c) { c.select.sinks = c.select.local_window = 0; });
  }
  const auto add_local = [&](const char* name, auto change) {
    cases.push_back(vary(local, name, change));
  };
  add_local("local_suffix", [](Case& c) { c.shape.seqlen_q = 210; });
  add_local("local_suffix_is_window", [](Case& c) { c.shape.seqlen_q = 32; });
  add_local("local_tau_window_odd_suffix", [](Case& c) {
    c.select.budget = BudgetPolicy::kTau;
    c.select.obs_window = 45;
    c.shape.seqlen_q = 333;
  });
  // Rows of a chunk: beginning in a 64-row block, in the sinks, at a block; keys of many chunks
  // before.
  const auto add_part = [&](const std::string& name, auto change) {
    cases.push_back(vary(part, name, change));
  };
  for (int64_t queries : {64, 130, 194, 386, 447, 449}) {
    add_part("part_of_" + std::to_string(queries), [&](Case& c) { c.shape.seqlen_q = queries; });
  }
  add_part("part_begins_in_sinks", [](Case& c) {
    c.shape.seqlen_q = 420;
    c.select.sinks = 64;
  });
  add_part("part_tau", [](Case& c) { c.select.budget = BudgetPolicy::kTau; });
  add_part("part_long", [](Case& c) {
    c.shape = suffix_attention(300, 1700, 4, 2, 64);
    c.select.share = Share::kLayer;
  });
  cases.push_back(vary(chunk, "chunk_local_ignored", [](Case& c) {
    c.select.fill = Fill::kLocal;
    c.select.sinks = 7;
  }));
  cases.push_back(vary(chunk, "chunk_is_window", [](Case& c) { c.shape.seqlen_q = 32; }));
  return cases;
}

// Where sparse attention turns dense, and one step before.
inline std::vector<AttentionCase> corner_cases() {
  using Case = AttentionCase;
  const Case base = {"corner", self_attention(300, 4, 2, 64), small_select(), DenseReason::kNone};
  std::vector<Case> cases;
  const auto add = [&](const char* name, DenseReason reason, auto change) {
    cases.push_back(vary(base, name, [&](Case& c) {
      c.reason = reason;
      change(c);
    }));
  };
  const auto length = [](Case& c, int64_t seqlen) {
    c.shape.seqlen_q = c.shape.seqlen_kv = seqlen;
  };
  using enum DenseReason;
  add("corner_shorter_than_window", kFewQueries, [&](Case& c) { length(c, 31); });
  add("corner_window_only", kShortPrompt, [&](Case& c) { length(c, 32); });
  add("corner_min_keep", kShortPrompt, [&](Case& c) { length(c, 48); });
  add("corner_min_keep_plus_one", kNone, [&](Case& c) {
    length(c, 49);
    c.select.tau = 0.5;
  });
  add("corner_tau_zero", kDisabled, [](Case& c) { c.select.tau = 0.0; });
  add("corner_tau_drops_nothing", kNothingToDrop, [](Case& c) { c.select.tau = 1e-12; });
  add("corner_tau_drops_all", kNone, [](Case& c) {
    c.select.tau = 0.9999999;
    c.select.min_keep = 0;
  });
  add("corner_ratio_one", kNothingToDrop, [](Case& c) {
    c.select.budget = BudgetPolicy::kKeepRatio;
    c.select.keep_ratio = 1.0;
  });
  add("corner_count_above_prefix", kNothingToDrop, [](Case& c) {
    c.select.budget = BudgetPolicy::kKeepCount;
    c.select.keep_count = 100000;
  });
  add("corner_protect_above_prefix", kNothingToDrop,
      [](Case& c) { c.select.protect_first = 100000; });
  add("corner_min_drop_not_reached", kNothingToDrop, [](Case& c) { c.select.min_drop = 0.9; });
  add("corner_few_queries", kFewQueries, [](Case& c) { c.shape.seqlen_q = 31; });
  add("corner_not_causal", kNotSparsifiable, [](Case& c) { c.shape.causal = false; });
  add("corner_nan_in_q", kNonFiniteScore, [](Case& c) { c.content = Content::kNanInQ; });
  add("corner_nan_in_k", kNonFiniteScore, [](Case& c) { c.content = Content::kNanInK; });
  add("corner_inf_in_k", kNonFiniteScore, [](Case& c) { c.content = Content::kInfInK; });
  add("corner_nan_in_one_of_batch", kNonFiniteScore, [](Case& c) {
    c.content = Content::kNanInK;
    c.shape.batch = 3;
    c.select.fill = Fill::kLocal;
  });
  add("corner_part_nan", kNonFiniteScore, [](Case& c) {
    c.select.fill = Fill::kLocal;
    c.shape.seqlen_q = 64;
    c.content = Content::kNanInK;
  });
  add("corner_chunk_first", kShortPrompt, [](Case& c) { c.select.queries = Queries::kAll; });
  add("corner_chunk_nan", kNonFiniteScore, [](Case& c) {
    c.select.queries = Queries::kAll;
    c.shape.seqlen_q = 64;
    c.content = Content::kNanInK;
  });
  add("corner_disabled", kDisabled, [](Case& c) { c.select.enabled = false; });
  add("corner_break_even", kBreakEven, [](Case& c) {
    // Scoring alone costs more than it could save: nearly every query is in the window.
    c.select.dense_policy = DensePolicy::kBreakEven;
    c.select.obs_window = 270;
    c.select.min_keep = 0;
  });
  return cases;
}

inline std::vector<AttentionCase> all_cases() {
  std::vector<AttentionCase> cases = dense_cases();
  for (auto&& more : {sparse_cases(), corner_cases()}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  return cases;
}

// The rows of all_cases() for which `wanted(case)` holds.
template <typename F>
std::vector<AttentionCase> cases_where(F&& wanted) {
  std::vector<AttentionCase> cases;
  for (const AttentionCase& c : all_cases()) {
    if (wanted(c)) cases.push_back(c);
  }
  return cases;
}

// GoogleTest's parameter name.
inline std::string case_name(const testing::TestParamInfo<AttentionCase>& info) {
  return info.param.name;
}
inline void PrintTo(const AttentionCase& c, std::ostream* out) { *out << c.name; }

// rel-L2 that a backend with f32 arithmetic must keep to: the rounding of `out`, or of f32 sums.
inline double output_tolerance(const AttentionCase& c) {
  switch (c.shape.out_dtype) {
    case DType::kF16:
      return 5e-4;
    case DType::kBF16:
      return 4e-3;
    default:
      return 1e-5;
  }
}

}  // namespace tokensieve::test
