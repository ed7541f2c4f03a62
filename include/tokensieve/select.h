// SelectConfig: which tokens a sparse layer keeps, and what dropped rows get; and the list of its
// fields, from which profiles, checks, command lines and Python's settings are made.
//
// Source: arXiv 2602.03216 section 3 (budget tau, per-head sets, zero fill) and docs/method.md
// (keep_ratio, share, local fill).
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>

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
  // Kept tokens' (paper). Zero fill: the call must hold the whole prompt. Local fill: a whole
  // prompt or a chunk of it, whose kept rows are those of the tokens kept among all so far.
  kKept = 0,
  kAll = 1,  // all of the chunk's: only keys before it are dropped
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

// Plain values: an enumerator, a range and a default each; `for_each_field` below lists them.
struct SelectConfig {
  bool enabled = true;  // false: dense attention, no selection

  // Budget: how many.
  BudgetPolicy budget = BudgetPolicy::kTau;
  double tau = 0.005;         // 0 runs dense
  double keep_ratio = 0.2;
  int64_t keep_count = 1024;

  // Ranking: which.
  int32_t obs_window = 128;   // last queries that score the prefix; always kept
  int32_t pool_width = 7;     // smoothing width

  // Bounds of the budget.
  int64_t min_keep = 1024;    // floor on the kept prefix tokens
  int32_t protect_first = 0;  // the first n tokens are always kept
  // Dense unless at least this share of the prefix is dropped. It bounds the workspace: no set
  // that runs sparse keeps more than 1 - min_drop of the prefix.
  double min_drop = 0.0;

  // Sets, and what the rows of dropped tokens get.
  Share share = Share::kHead;
  Fill fill = Fill::kZero;
  Queries queries = Queries::kKept;
  int32_t local_window = 512;  // local fill: neighbours
  int32_t sinks = 4;           // local fill: first tokens that every row sees

  Arithmetic arithmetic = Arithmetic::kFp32;
  DensePolicy dense_policy = DensePolicy::kBreakEven;
};

// Rows of `local` fill see whole 64-key blocks: row i sees [64 * (i / 64) - local_window, i].
inline constexpr int32_t kLocalBlock = 64;

// What a field of SelectConfig is called, means and may hold.
struct SelectField {
  enum class Group : int32_t { kBudget, kRanking, kFill, kCall };

  const char* name;   // in profiles, Python and errors; options write '-' for '_'
  const char* alias;  // a shorter name on command lines, or the same
  Group group;        // kCall: a policy of the call; profiles do not have it
  const char* help;
  // Numbers: least, least + step, ... up to most; in words.
  const char* allowed = nullptr;  // null: a word (names.h) or a bool
  double least = 0, most = 0;
  int64_t step = 1;
  // Read only with this budget or fill. Who sets the value on a command line means the budget too.
  std::optional<BudgetPolicy> of_budget = std::nullopt;
  std::optional<Fill> of_fill = std::nullopt;

  constexpr bool allows(double value) const {
    if (!(value >= least && value <= most)) return false;  // nor NaN
    return step == 1 || (static_cast<int64_t>(value) - static_cast<int64_t>(least)) % step == 0;
  }
  constexpr bool used_by(const SelectConfig& c) const {
    return (!of_budget || *of_budget == c.budget) && (!of_fill || *of_fill == c.fill);
  }
};

// Calls visit(const SelectField&, value&) for every field, in the order in which profiles are
// written. The type of the value tells its kind: an enumeration, bool, double, int32_t or int64_t.
template <typename Select, typename Visit>
  requires std::same_as<std::remove_const_t<Select>, SelectConfig>
constexpr void for_each_field(Select& c, Visit&& visit) {
  using enum SelectField::Group;
  constexpr double kAbove0 = std::numeric_limits<double>::min();
  constexpr double kBelow1 = 1.0 - std::numeric_limits<double>::epsilon() / 2;
  constexpr double kMostTokens = 2147483648.0;  // more than a prompt has
  const auto field = [&visit](const SelectField& about, auto& value) { visit(about, value); };

  field({"budget", "budget", kBudget, "how the number of kept tokens is found"}, c.budget);
  field({"tau", "tau", kBudget, "share of score mass that may be dropped (the paper: 0.005)",
         "[0, 1)", 0, kBelow1, 1, BudgetPolicy::kTau}, c.tau);
  field({"keep_ratio", "keep", kBudget, "share of the prefix tokens that is kept",
         "(0, 1]", kAbove0, 1, 1, BudgetPolicy::kKeepRatio}, c.keep_ratio);
  field({"keep_count", "count", kBudget, "number of prefix tokens that is kept",
         ">= 1, at most 2^31", 1, kMostTokens, 1, BudgetPolicy::kKeepCount}, c.keep_count);
  field({"obs_window", "obs_window", kRanking, "last queries that score the prefix; always kept",
         ">= 1, at most 4096", 1, 4096}, c.obs_window);
  field({"pool_width", "pool_width", kRanking, "smoothing width of the scores",
         "an odd number from 1 to 1023", 1, 1023, 2}, c.pool_width);
  field({"min_keep", "min_keep", kBudget, "fewest prefix tokens that are kept",
         ">= 0, at most 2^31", 0, kMostTokens}, c.min_keep);
  field({"protect_first", "protect_first", kBudget, "first tokens that are always kept",
         ">= 0, at most 2^31 - 1", 0, kMostTokens - 1}, c.protect_first);
  field({"min_drop", "min_drop", kBudget, "run dense unless this share of the prefix is dropped",
         "[0, 1)", 0, kBelow1}, c.min_drop);
  field({"share", "share", kRanking, "whose scores are averaged before the top tokens are taken"},
        c.share);
  field({"fill", "fill", kFill, "what rows of dropped tokens get"}, c.fill);
  field({"local_window", "window", kFill, "local fill: neighbours that every row sees",
         "a multiple of 64, >= 0, at most 2^30", 0, 1 << 30, kLocalBlock, {}, Fill::kLocal},
        c.local_window);
  field({"sinks", "sinks", kFill, "local fill: first tokens that every row sees", "0..64", 0, 64,
         1, {}, Fill::kLocal}, c.sinks);
  field({"arithmetic", "arithmetic", kRanking, "how scores are rounded"}, c.arithmetic);
  field({"enabled", "enabled", kCall, "false: dense attention"}, c.enabled);
  field({"queries", "queries", kCall, "kept: those of kept tokens; all: a chunk's, with zero fill"},
        c.queries);
  field({"dense_policy", "dense_policy", kCall, "whether a call that cannot win runs dense"},
        c.dense_policy);
}

}  // namespace tokensieve
