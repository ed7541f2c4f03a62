// What `tokensieve verify` holds against a golden case. Tolerances: tests/golden/README.md.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ref/oracle.h"
#include "tokensieve/attention.h"
#include "verify/compare.h"
#include "verify/golden.h"

namespace tokensieve::verify {

struct Check {
  std::string stage;
  std::string measure;  // what `error` counts
  double error = 0.0;
  double tolerance = 0.0;
  std::string detail;  // where the worst error is, or what happened instead of a result

  bool ok() const { return error <= tolerance; }  // false for NaN
};

// The oracle against the golden file. Fills `oracle` for check_backend.
std::vector<Check> check_oracle(const GoldenCase& golden, Executor& executor,
                                ref::OracleResult& oracle);

// A backend against the golden file and, where that is rounded, the oracle.
std::vector<Check> check_backend(const GoldenCase& golden, const ref::OracleResult& oracle,
                                 Backend backend, Isa isa, Executor& executor);

// The same of the CUDA backend, on copies in device memory.
std::vector<Check> check_cuda(const GoldenCase& golden, const ref::OracleResult& oracle,
                              Executor& executor);

// The single checks.
inline constexpr double kOfficialMiss = 0.002;  // 1 - overlap with the official code, end to end

using TokenSets = std::vector<std::vector<int32_t>>;  // ascending tokens of every head

// One set a query head, of sets that may be shared; all tokens if the sequence is dense.
TokenSets sets_per_head(const Plan& plan, const TokenSets& sets);

// out and lse in double for these sets: the oracle's own, unless near ties made the sets differ.
std::pair<std::vector<double>, std::vector<double>> expected_outputs(
    const GoldenCase& golden, const ref::OracleResult& oracle, const Plan& plan,
    const TokenSets& sets, Executor& executor);

// Row h of index lists with `columns` entries each.
std::span<const int32_t> row_of(const std::vector<int32_t>& indices, int64_t columns, int64_t h);

// The call of this stage failed.
Check failed(const char* stage, const Status& status);

// Kept tokens, but for counts between which the running mass is within `tie` of tau.
Check keep_check(const GoldenCase& golden, int64_t keep, double tie);

// Tokens kept by only one side, except swaps of scores closer than `tie` (relative).
Check indices_check(const GoldenCase& golden, const Plan& plan, const TokenSets& sets, double tie);

// What a run reports against the golden pairs.
Check work_check(const GoldenCase& golden, double work);

// 1 - |both| / |larger|, over all heads.
Check official_check(const GoldenCase& golden, const char* stage, double tolerance,
                     const TokenSets& sets);

template <typename A, typename E>
Check rel_l2_check(const char* stage, const A& actual, const E& expected, double tolerance,
                   const std::vector<int64_t>& shape) {
  const Difference d = rel_l2(actual, expected);
  return {stage, "rel-L2", d.error, tolerance, "worst at " + index_text(d.worst, shape)};
}

// Nonzero elements in rows that the golden case drops (zero fill).
template <typename T>
Check zero_rows_check(const GoldenCase& golden, const TokenSets& kept, const std::vector<T>& out) {
  const AttentionShape& s = golden.shape;
  Check check = {"scatter", "nonzero in dropped rows", 0.0, 0.0, ""};
  for (int64_t h = 0; h < s.num_q_heads; ++h) {
    for (int32_t i = 0; i < s.seqlen_q; ++i) {
      if (std::binary_search(kept[h].begin(), kept[h].end(), i)) continue;
      const T* values = &out[(i * s.num_q_heads + h) * s.head_dim];
      for (int64_t d = 0; d < s.head_dim; ++d) {
        if (values[d] == 0) continue;
        check.error += 1;
        check.detail = fmt::format("last at [{}, {}, {}]", i, h, d);
      }
    }
  }
  return check;
}

}  // namespace tokensieve::verify
