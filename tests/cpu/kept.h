// The sets that the CPU backend selects for a row of the case tables.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "support/case_data.h"
#include "tokensieve/tokensieve.h"

namespace tokensieve::test {

struct Kept {
  Kept(const AttentionCase& c, const CaseData& data, Isa isa, int64_t room = 0)
      : plan(make_plan(c.shape, c.select, {.backend = Backend::kCpu, .isa = isa}).value()),
        capacity(plan.keep_capacity() + room),
        indices(c.shape.batch * plan.num_sets * capacity, -1),
        count(c.shape.batch, -1) {
    GuardedBytes workspace(workspace_bytes(plan));
    const Status status = select_tokens(plan, data.inputs(), sets(), workspace.span());
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(workspace.guards_intact());
  }
  KeepSet sets() { return {indices.data(), capacity, count.data()}; }
  std::vector<int32_t> set(int64_t b, int64_t s) const {
    const int32_t* row = &indices[(b * plan.num_sets + s) * capacity];
    return {row, row + count[b]};
  }

  Plan plan;
  int64_t capacity;
  std::vector<int32_t> indices;
  std::vector<int64_t> count;
};

// Cases in which every sequence is sparse and whose queries are the whole sequence, so that its
// rows can be gathered and put back.
inline bool has_rows(const AttentionCase& c) {
  return c.reason == DenseReason::kNone && c.shape.seqlen_q == c.shape.seqlen_kv && !c.paged;
}

// One of whose sequences runs dense.
inline AttentionCase partly_dense_case() {
  return cases_where([](const AttentionCase& c) {
           return c.name == "corner_nan_in_one_of_batch";
         })
      .at(0);
}

}  // namespace tokensieve::test
