// SelectConfig: which tokens a sparse layer keeps, and what dropped rows get.
//
// Source: arXiv 2602.03216 section 3 (budget tau, per-head sets, zero fill) and docs/method.md
// (keep_ratio, share, local fill).
#pragma once

#include <cstdint>

namespace tokensieve {

// How many prefix tokens a layer keeps.
enum class BudgetPolicy : int32_t {
  kTau = 0,        // drop the most tokens whose head-averaged score mass stays below tau (paper)
  kKeepRatio = 1,  // floor(keep_ratio * prefix_len)
  kKeepCount = 2,  // keep_count
};

// Whose scores are averaged before the top tokens are taken.
enum class Share : int32_t {
  kHead = 0,   // every query head has its own set (paper)
  kKv = 1,     // one set per kv head, shared by its group
  kLayer = 2,  // one set for all heads
};

// What rows of dropped tokens get.
enum class Fill : int32_t {
  kZero = 0,   // exactly 0 (paper)
  kLocal = 1,  // exact attention over the sinks and a window of neighbours
};

// Which queries a sparse layer answers from the kept keys.
enum class Queries : int32_t {
  kKept = 0,  // queries are dropped with their keys (paper); the call must hold the whole prompt
  kAll = 1,   // only past keys are dropped: chunked prefill, where later chunks may ask anything
};

enum class Arithmetic : int32_t {
  kFp32 = 0,               // scores stay f32; sums do not depend on order
  kReferenceRounding = 1,  // rounds to bf16 where the official code does (parity tests)
};

// When a sparse call may run dense instead.
enum class DensePolicy : int32_t {
  kBreakEven = 0,  // dense when the cost model says that sparse cannot win (default)
  kNever = 1,      // sparse whenever it is well defined: tests and quality studies
};

struct SelectConfig {
  bool enabled = true;  // false: dense attention, no selection
  BudgetPolicy budget = BudgetPolicy::kTau;
  double tau = 0.005;         // [0, 1); 0 runs dense
  double keep_ratio = 0.2;    // (0, 1]
  int64_t keep_count = 1024;  // >= 1
  int32_t obs_window = 128;   // last queries that score the prefix; always kept; >= 1
  int32_t pool_width = 7;     // odd smoothing width, >= 1
  int64_t min_keep = 1024;    // floor on the kept prefix tokens, >= 0
  int32_t protect_first = 0;  // the first n tokens are always kept, >= 0
  // Dense unless at least this share of the prefix is dropped, [0, 1). It bounds the workspace:
  // no set that runs sparse keeps more than 1 - min_drop of the prefix.
  double min_drop = 0.0;
  Share share = Share::kHead;
  Fill fill = Fill::kZero;
  Queries queries = Queries::kKept;
  int32_t local_window = 512;  // local fill: neighbours, a multiple of 64, >= 0
  int32_t sinks = 4;           // local fill: first tokens that every row sees, 0..64
  Arithmetic arithmetic = Arithmetic::kFp32;
  DensePolicy dense_policy = DensePolicy::kBreakEven;
};

// Rows of `local` fill see whole 64-key blocks: row i sees [64 * (i / 64) - local_window, i].
inline constexpr int32_t kLocalBlock = 64;

}  // namespace tokensieve
