#include "ref/score.h"

#include <algorithm>
#include <cmath>

#include "ref/elements.h"

namespace tokensieve::ref {

std::vector<double> load_sequence(const TensorView& x, const int32_t* kv_indices, int64_t b,
                                  int64_t seqlen) {
  const int64_t heads = x.shape[2];
  const int64_t dim = x.shape[3];
  std::vector<double> rows(static_cast<size_t>(heads * seqlen * dim));
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t j = 0; j < seqlen; ++j) {
      const int64_t row = kv_indices ? kv_indices[b * seqlen + j] : j;
      load_row(x, b, row, h, &rows[(h * seqlen + j) * dim]);
    }
  }
  return rows;
}

double dot(const double* a, const double* b, int64_t size) {
  // Four sums instead of one only for speed; head_dim is a multiple of 16.
  double sum[4] = {};
  for (int64_t d = 0; d < size; d += 4) {
    for (int lane = 0; lane < 4; ++lane) sum[lane] += a[d + lane] * b[d + lane];
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

double logit(const AttentionShape& shape, const double* q, const double* k) {
  const double s = static_cast<double>(shape.sm_scale) * dot(q, k, shape.head_dim);
  if (shape.softcap == 0.0f) return s;
  const double cap = shape.softcap;
  return cap * std::tanh(s / cap);
}

void softmax(std::vector<double>& logits, const float* sink_mass) {
  double max = *std::max_element(logits.begin(), logits.end());
  if (sink_mass) max = std::max<double>(max, *sink_mass);
  double sum = sink_mass ? std::exp(*sink_mass - max) : 0.0;
  for (double& x : logits) sum += x = std::exp(x - max);
  for (double& x : logits) x /= sum;
}

std::vector<double> score(const Plan& plan, const AttentionInputs& inputs, int64_t b,
                          Executor& executor) {
  const AttentionShape& s = plan.shape;
  const int64_t group_size = s.num_q_heads / s.num_kv_heads;
  const int64_t obs_window = plan.select.obs_window;
  const std::vector<double> keys = load_sequence(inputs.k, inputs.kv_indices, b, s.seqlen_kv);
  std::vector<double> token_score(static_cast<size_t>(s.num_q_heads * plan.prefix_len), 0.0);

  executor.parallel_for(s.num_q_heads, [&](int64_t h, int) {
    const double* head_keys = &keys[(h / group_size) * s.seqlen_kv * s.head_dim];
    double* head_score = &token_score[h * plan.prefix_len];
    std::vector<double> query(s.head_dim);
    std::vector<double> probability;
    for (int64_t w = 0; w < obs_window; ++w) {
      const int64_t row = s.seqlen_q - obs_window + w;        // in q
      const int64_t position = s.seqlen_kv - obs_window + w;  // in the sequence
      load_row(inputs.q, b, row, h, query.data());
      probability.resize(position + 1);  // causal: keys up to the query itself
      for (int64_t j = 0; j <= position; ++j) {
        probability[j] = logit(s, query.data(), head_keys + j * s.head_dim);
      }
      softmax(probability, inputs.sink_logits ? inputs.sink_logits + h : nullptr);
      for (int64_t j = 0; j < plan.prefix_len; ++j) {
        head_score[j] += probability[j] / static_cast<double>(obs_window);
      }
    }
  });
  return token_score;
}

}  // namespace tokensieve::ref
