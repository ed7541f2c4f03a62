// Host tensors of a case of stages_cases.h: NaN where no stage may read.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/plan.h"
#include "cuda/stages_cases.h"
#include "support/case_data.h"
#include "tokensieve/executor.h"

namespace tokensieve::cuda::test {

using HostTensor = tokensieve::test::Tensor;

class StageInputs {
 public:
  StageInputs(const StageCase& c, const Plan& plan, Executor& executor)
      : packed(c.packed),
        starts_q(starts(c, plan.shape.seqlen_q)),
        starts_kv(starts(c, plan.shape.seqlen_kv)),
        q(tensor(c, starts_q, c.q_heads)),
        k(tensor(c, starts_kv, c.kv_heads)),
        v(tensor(c, starts_kv, c.kv_heads)) {
    for (int64_t b = 0; b < c.batch; ++b) {
      const int64_t q_end = first_row(starts_q, b) + length(starts_q, b);
      const int64_t begin = first_row(starts_kv, b), end = begin + keys(b);
      fill(executor, q, axis(b), q_end - c.window, q_end, c.q_scale, 1);  // no more of q is read
      fill(executor, k, axis(b), begin, end, 1.0, 2);
      fill(executor, v, axis(b), begin, end, 1.0, 3);
    }
    if (c.poison_key >= 0.0) {
      k.set(0, static_cast<int64_t>(c.poison_key * (c.seqlen - 1)), 0, 0, std::nan(""));
    }
    for (int h = 0; c.sinks && h < c.q_heads; ++h) sinks.push_back(2.0f + 0.5f * (h % 5));
  }

  // A [batch, seq] or packed tensor of the case.
  static HostTensor tensor(const StageCase& c, const std::vector<int32_t>& starts, int64_t heads) {
    return {c.dtype, c.layout, c.packed ? 1 : c.batch, c.packed ? starts.back() : starts[1], heads,
            c.dim};
  }
  // Where sequence b's keys lie: batch entry, first row, how many.
  int64_t axis(int64_t b) const { return packed ? 0 : b; }
  int64_t first_key(int64_t b) const { return first_row(starts_kv, b); }
  int64_t keys(int64_t b) const { return length(starts_kv, b); }

  // Sequence b's rows.
  TensorView rows_of(const HostTensor& x, const std::vector<int32_t>& starts, int64_t b) const {
    TensorView view = x.view();
    view.data = static_cast<uint16_t*>(view.data) +
                ref::row_offset(view, axis(b), first_row(starts, b), 0);
    view.shape[0] = 1;
    view.shape[1] = length(starts, b);
    return view;
  }
  // Sequence b as a call of its own.
  Plan plan_of_sequence(const Plan& plan, int64_t b) const {
    Plan one = plan;
    one.shape.packed = false;
    one.shape.batch = 1;
    one.shape.seqlen_q = length(starts_q, b);
    one.shape.seqlen_kv = keys(b);
    one.prefix_len = keys(b) - suffix_of(plan.select, one.shape.seqlen_q);
    return one;
  }
  AttentionInputs sequence(int64_t b) const {
    return {.q = rows_of(q, starts_q, b),
            .k = rows_of(k, starts_kv, b),
            .v = rows_of(v, starts_kv, b),
            .sink_logits = sinks.empty() ? nullptr : sinks.data()};
  }

  const bool packed;
  const std::vector<int32_t> starts_q, starts_kv;  // [batch + 1], also if not packed
  HostTensor q, k, v;
  std::vector<float> sinks;

 private:
  // Packed sequences get shorter one by one.
  static std::vector<int32_t> starts(const StageCase& c, int64_t longest) {
    std::vector<int32_t> starts = {0};
    for (int b = 0; b < c.batch; ++b) {
      const int less = c.packed ? b * (c.seqlen / 3 + 5) : 0;
      starts.push_back(starts.back() + static_cast<int32_t>(longest) - less);
    }
    return starts;
  }
  static int64_t length(const std::vector<int32_t>& starts, int64_t b) {
    return starts[b + 1] - starts[b];
  }
  int64_t first_row(const std::vector<int32_t>& starts, int64_t b) const {
    return packed ? starts[b] : 0;
  }
  // Normal values times `scale`.
  static void fill(Executor& executor, HostTensor& x, int64_t axis, int64_t begin, int64_t end,
                   double scale, uint64_t seed) {
    const auto shape = x.view().shape;
    executor.parallel_for(end - begin, [&](int64_t i, int) {
      const int64_t row = begin + i;
      tokensieve::test::Random random(4 * (axis * shape[1] + row) + seed);
      for (int64_t h = 0; h < shape[2]; ++h) {
        for (int64_t d = 0; d < shape[3]; ++d) x.set(axis, row, h, d, scale * random.normal());
      }
    });
  }

};

}  // namespace tokensieve::cuda::test
