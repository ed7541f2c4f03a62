// Sets of kept tokens for the tests of compact and scatter: written by hand, or selected by the CPU
// backend for a row of the case tables.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "support/case_data.h"
#include "tokensieve/tokensieve.h"

namespace tokensieve::test {

// Two sequences of 40 tokens, 4 query heads on 2 kv heads, one set a kv head; the second is dense.
class HandMadeSets : public testing::Test {
 protected:
  HandMadeSets() {
    plan_.shape = {.batch = 2, .seqlen_q = 40, .seqlen_kv = 40, .num_q_heads = 4,
                   .num_kv_heads = 2, .head_dim = 16};
    plan_.num_sets = 2;
  }
  KeepSet keep() { return {indices_.data(), 5, count_.data()}; }

  Plan plan_;
  std::vector<int32_t> indices_ = {0, 7, 38, 39, -1, 2, 3, 4, 39, -1,        // sequence 0
                                   -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};  // sequence 1
  std::vector<int64_t> count_ = {4, 40};
};

// What the CPU backend selects.
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

// Its sets, in memory larger than they need: sequence 0 has no indices, whatever the capacity.
class PartlyDense : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(kept_.count[0], shape_.seqlen_kv);
    ASSERT_LT(kept_.count[1], shape_.seqlen_kv);
  }
  const AttentionCase case_ = partly_dense_case();
  const AttentionShape& shape_ = case_.shape;
  const CaseData data_ = make_data(case_, 5);
  Kept kept_{case_, data_, Isa::kAuto, /*room=*/9};
  Tensor rows_{shape_.dtype,   case_.layout,       shape_.batch,
               kept_.capacity, shape_.num_q_heads, shape_.head_dim};
};

}  // namespace tokensieve::test
