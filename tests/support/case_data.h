// Tensors for a row of the case tables (cases.h), deterministic in the seed.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <numeric>
#include <utility>
#include <vector>

#include "eval/random.h"
#include "ref/oracle.h"
#include "support/cases.h"
#include "support/tensors.h"

namespace tokensieve::test {

// The generator of eval, with what tensors need.
class Random : public eval::Random {
 public:
  using eval::Random::Random;
  double uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }
  double normal() {
    return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform());
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
};

// Owns everything that a run of a case touches. out and lse start poisoned.
struct CaseData {
  Tensor q, k, v, out;
  std::vector<float> lse;
  std::vector<float> sink_logits;
  std::vector<int32_t> kv_indices;
  std::vector<uint16_t> bias;
  int64_t bias_row_stride = 0;
  std::vector<float> bias_slopes;

  AttentionInputs inputs() const {
    const auto pointer = [](const auto& x) { return x.empty() ? nullptr : x.data(); };
    return {.q = q.view(),
            .k = k.view(),
            .v = v.view(),
            .sink_logits = pointer(sink_logits),
            .kv_indices = pointer(kv_indices),
            .bias = pointer(bias),
            .bias_row_stride = bias_row_stride,
            .bias_slopes = pointer(bias_slopes)};
  }
  AttentionOutputs outputs() { return {.out = out.view(), .lse = lse.data()}; }

  void poison_outputs() {
    out.poison();
    std::fill(lse.begin(), lse.end(), std::numeric_limits<float>::quiet_NaN());
  }
  std::vector<double> out_values() const { return out.values(); }
};

namespace case_data_internal {

// Row of k and v that holds token j of sequence b.
inline int64_t kv_row(const CaseData& data, const AttentionCase& c, int64_t b, int64_t j) {
  return data.kv_indices.empty() ? j : data.kv_indices[b * c.shape.seqlen_kv + j];
}

// Keys lean towards a direction of their kv head by their own strength; queries lean towards it
// with a strength that varies by sequence, so that sequences of a batch keep different counts.
inline void fill_heavy_hitters(const AttentionCase& c, Random& random, CaseData& data) {
  const AttentionShape& s = c.shape;
  const int64_t group_size = s.num_q_heads / s.num_kv_heads;
  for (int64_t b = 0; b < s.batch; ++b) {
    const double pull = (1.0 - 0.2 * static_cast<double>(b % 4)) * std::sqrt(s.head_dim);
    for (int64_t kv_head = 0; kv_head < s.num_kv_heads; ++kv_head) {
      std::vector<double> direction(s.head_dim);
      for (double& x : direction) x = random.normal();
      const double norm =
          std::sqrt(std::inner_product(direction.begin(), direction.end(), direction.begin(), 0.0));
      for (double& x : direction) x /= norm;
      for (int64_t j = 0; j < s.seqlen_kv; ++j) {
        const bool heavy = j == 0 || random.uniform() < 0.1;
        const double strength = heavy ? 2.0 + 3.0 * random.uniform() : random.normal();
        const int64_t row = kv_row(data, c, b, j);
        for (int64_t d = 0; d < s.head_dim; ++d) {
          data.k.set(b, row, kv_head, d, random.normal() + strength * direction[d]);
          data.v.set(b, row, kv_head, d, random.normal());
        }
      }
      for (int64_t h = kv_head * group_size; h < (kv_head + 1) * group_size; ++h) {
        for (int64_t i = 0; i < s.seqlen_q; ++i) {
          const double lean = pull * (0.8 + 0.4 * random.uniform());
          for (int64_t d = 0; d < s.head_dim; ++d) {
            data.q.set(b, i, h, d, random.normal() + lean * direction[d]);
          }
        }
      }
    }
  }
}

// All queries point along dimension 0, where one token's key is huge and the others' are 0.
inline void fill_one_hot(const AttentionCase& c, CaseData& data) {
  const AttentionShape& s = c.shape;
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.num_q_heads; ++h) {
      for (int64_t i = 0; i < s.seqlen_q; ++i) data.q.set(b, i, h, 0, 256.0);
    }
    for (int64_t h = 0; h < s.num_kv_heads; ++h) {
      for (int64_t j = 0; j < s.seqlen_kv; ++j) {
        // 256 * 256 / sqrt(head_dim) >= 4096: far below the smallest double as a weight.
        data.k.set(b, kv_row(data, c, b, j), h, 0, j == s.seqlen_kv / 3 ? 256.0 : 0.0);
      }
    }
  }
}

inline void fill_special(const AttentionCase& c, CaseData& data) {
  const AttentionShape& s = c.shape;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const int64_t row = kv_row(data, c, 0, s.seqlen_kv / 3);
  switch (c.content) {
    case Content::kHeavyHitters:
      break;
    case Content::kTies:
      data.q.assign(std::vector<double>(data.q.size(), 0.0));
      break;
    case Content::kOneHot:
      fill_one_hot(c, data);
      break;
    case Content::kNanInQ:
      data.q.set(0, s.seqlen_q - 1, 0, 1, nan);
      break;
    case Content::kNanInK:
      data.k.set(0, row, 0, 1, nan);
      break;
    case Content::kInfInK:
      data.k.set(0, row, 0, 1, std::numeric_limits<double>::infinity());
      break;
    case Content::kNanInV:
      data.v.set(0, row, 0, 1, nan);
      break;
  }
}

// Distinct rows for every sequence, in no order, out of `rows`.
inline void fill_kv_indices(const AttentionCase& c, int64_t rows, Random& random, CaseData& data) {
  std::vector<int32_t> order(rows);
  for (int64_t b = 0; b < c.shape.batch; ++b) {
    std::iota(order.begin(), order.end(), 0);
    for (int64_t i = rows - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
    data.kv_indices.insert(data.kv_indices.end(), order.begin(), order.begin() + c.shape.seqlen_kv);
  }
}

// -inf above the causal diagonal and in one whole row, minus the distance in units of 1/64
// elsewhere; what no row may read is NaN.
inline void fill_bias(const AttentionCase& c, int64_t rows, CaseData& data) {
  const AttentionShape& s = c.shape;
  data.bias_row_stride = rows + 5;
  data.bias.assign(s.seqlen_q * data.bias_row_stride, 0xffff);
  const int64_t masked_row = s.seqlen_q / 2;
  for (int64_t i = 0; i < s.seqlen_q; ++i) {
    const int64_t position = s.seqlen_kv - s.seqlen_q + i;
    for (int64_t j = 0; j < s.seqlen_kv; ++j) {
      const bool masked = j > position || i == masked_row;
      const double bias = masked ? -std::numeric_limits<double>::infinity()
                                 : -static_cast<double>(position - j) / 64;
      data.bias[i * data.bias_row_stride + kv_row(data, c, 0, j)] = ref::encode(bias, ref::kF16);
    }
  }
}

}  // namespace case_data_internal

inline CaseData make_data(const AttentionCase& c, uint64_t seed) {
  using namespace case_data_internal;
  const AttentionShape& s = c.shape;
  Random random(seed);
  CaseData data;
  const int64_t kv_rows = c.paged ? s.seqlen_kv + 37 : s.seqlen_kv;
  data.q = Tensor(s.dtype, c.layout, s.batch, s.seqlen_q, s.num_q_heads, s.head_dim);
  data.k = Tensor(s.kv_dtype, c.layout, s.batch, kv_rows, s.num_kv_heads, s.head_dim);
  data.v = Tensor(s.kv_dtype, c.layout, s.batch, kv_rows, s.num_kv_heads, s.head_dim);
  data.out = Tensor(s.out_dtype, c.layout, s.batch, s.seqlen_q, s.num_q_heads, s.head_dim);
  data.lse.resize(s.batch * s.num_q_heads * s.seqlen_q);
  if (c.paged) fill_kv_indices(c, kv_rows, random, data);
  fill_heavy_hitters(c, random, data);
  fill_special(c, data);
  if (c.sinks) {
    for (int32_t h = 0; h < s.num_q_heads; ++h) data.sink_logits.push_back(1.5f * h - 1.0f);
  }
  if (c.bias) fill_bias(c, kv_rows, data);
  if (c.slopes) {
    for (int32_t h = 0; h < s.num_q_heads; ++h) data.bias_slopes.push_back(std::exp2(-1.0f - h));
  }
  data.poison_outputs();
  return data;
}

// What a backend must compute for `plan` (of any backend) on `data`.
inline ref::OracleResult run_oracle(const Plan& plan, const CaseData& data) {
  ref::OracleResult result;
  const Status status = ref::run_oracle(plan, data.inputs(), {}, result);
  if (!status.ok()) result = {};
  return result;
}

inline ref::OracleResult run_oracle(const AttentionCase& c, const CaseData& data) {
  return run_oracle(make_plan(c.shape, c.select, {.backend = Backend::kRef}).value(), data);
}

}  // namespace tokensieve::test
