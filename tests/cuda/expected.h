// Attention of single rows in double: the oracle's rules (ref::visible_keys), without computing all
// rows of a long sequence.
#pragma once

#include <algorithm>
#include <vector>

#include "ref/attend.h"
#include "ref/elements.h"
#include "ref/score.h"
#include "support/case_data.h"

namespace tokensieve::cuda::test {

class ExpectedRows {
 public:
  ExpectedRows(const Plan& plan, const AttentionInputs& inputs, int64_t batch)
      : plan_(plan),
        inputs_(inputs),
        batch_(batch),
        keys_(ref::load_sequence(inputs.k, nullptr, batch, plan.shape.seqlen_kv)),
        values_(ref::load_sequence(inputs.v, nullptr, batch, plan.shape.seqlen_kv)) {}

  // Writes out [head_dim]; returns lse. kept: of the head's set; ignored if dense.
  double row(int64_t head, int64_t query, bool dense, std::span<const int32_t> kept,
             double* out) const {
    const AttentionShape& s = plan_.shape;
    const int64_t position = s.seqlen_kv - s.seqlen_q + query;
    const std::vector<int32_t> tokens = ref::visible_keys(plan_, dense, kept, position);
    const int64_t first = head * s.num_kv_heads / s.num_q_heads * s.seqlen_kv * s.head_dim;
    const ref::QueryRow row = {plan_, inputs_, batch_, head, query, &keys_[first], &values_[first]};
    return ref::attend_row(row, tokens, out);
  }

 private:
  const Plan& plan_;
  const AttentionInputs& inputs_;
  int64_t batch_;
  std::vector<double> keys_, values_;  // [num_kv_heads, seqlen_kv, head_dim]
};

// Queries to look at: all of a short sequence, else the ends, tile borders and random ones.
inline std::vector<int64_t> sampled_queries(int64_t seqlen_q, int64_t wanted, uint64_t seed) {
  std::vector<int64_t> queries;
  if (seqlen_q <= 520) {
    for (int64_t i = 0; i < seqlen_q; ++i) queries.push_back(i);
    return queries;
  }
  tokensieve::test::Random random(seed);
  for (int64_t i : {int64_t{0}, int64_t{1}, int64_t{127}, int64_t{128}, int64_t{129}}) {
    queries.push_back(i);
    queries.push_back(seqlen_q - 1 - i);
  }
  while (static_cast<int64_t>(queries.size()) < wanted) queries.push_back(random.below(seqlen_q));
  std::sort(queries.begin(), queries.end());
  queries.erase(std::unique(queries.begin(), queries.end()), queries.end());
  return queries;
}

}  // namespace tokensieve::cuda::test
