// One FLASH_ATTN_EXT node as llama.cpp builds it: Q, K and V are permuted views, K and V of a
// cache. With the plain double-precision meaning of the op beside it.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml.h"

namespace tokensieve::ggml {

struct OpCase {
  std::string name;
  int64_t head_dim = 64;
  int64_t queries = 300;
  int64_t cells = 512;
  int64_t q_heads = 4;
  int64_t kv_heads = 2;
  int64_t streams = 1;
  ggml_type type_k = GGML_TYPE_F16;
  ggml_type type_v = GGML_TYPE_F16;
  float max_bias = 0.0f;
  float softcap = 0.0f;
  bool sinks = false;
  // Mask value of (stream, row, cell); null: no mask.
  std::function<float(int64_t, int64_t, int64_t)> mask;
  float scale = 0.0f;  // 0: 1 / sqrt(head_dim)
  int layer = 7;
};

class OpGraph {
 public:
  explicit OpGraph(const OpCase& op_case, uint64_t seed = 1) : c_(op_case), random_(seed) {
    context_.reset(ggml_init({32 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
    build();
    buffer_.reset(
        ggml_backend_alloc_ctx_tensors_from_buft(context_.get(), ggml_backend_cpu_buffer_type()));
    fill();
  }

  ggml_tensor* op() const { return op_; }
  ggml_cgraph* graph() const { return graph_; }
  const OpCase& op_case() const { return c_; }

  ggml_status compute(ggml_backend_t backend) {
    std::memset(op_->data, 0xff, ggml_nbytes(op_));  // NaN: every row must be written
    return ggml_backend_graph_compute(backend, graph_);
  }

  std::vector<float> result() const {
    const float* data = static_cast<const float*>(op_->data);
    return {data, data + ggml_nelements(op_)};
  }

  // Q [rows, heads, dim], and K or V [tokens, kv heads, dim] of these cells, of stream 0.
  std::vector<float> q() const {
    const float* data = static_cast<const float*>(q_->data);
    return {data, data + c_.queries * c_.q_heads * c_.head_dim};
  }
  std::vector<float> k_of(const std::vector<int32_t>& cells) const {
    return rows_of(k_cache_, cells);
  }
  std::vector<float> v_of(const std::vector<int32_t>& cells) const {
    return rows_of(v_cache_, cells);
  }

  // Makes K and V of every cell that no row may see NaN.
  void poison_hidden_cells() {
    for (int64_t s = 0; s < c_.streams; ++s) {
      for (int64_t j = 0; j < c_.cells; ++j) {
        if (visible(s, j)) continue;
        poison_row(k_cache_, s, j);
        poison_row(v_cache_, s, j);
      }
    }
  }

  // The op's meaning, from the stored K, V and mask, in double. Same layout as result().
  std::vector<double> expected() const {
    std::vector<double> out(ggml_nelements(op_), 0.0);
    for (int64_t s = 0; s < c_.streams; ++s) {
      for (int64_t h = 0; h < c_.q_heads; ++h) {
        const int64_t kv = h / (c_.q_heads / c_.kv_heads);
        const std::vector<float> keys = head_rows(k_cache_, s, kv);
        const std::vector<float> values = head_rows(v_cache_, s, kv);
        for (int64_t i = 0; i < c_.queries; ++i) {
          expected_row(s, h, i, keys, values,
                       &out[((s * c_.queries + i) * c_.q_heads + h) * c_.head_dim]);
        }
      }
    }
    return out;
  }

 private:
  void build() {
    ggml_context* ctx = context_.get();
    const int64_t d = c_.head_dim;
    q_ = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, d, c_.q_heads, c_.queries, c_.streams);
    k_cache_ = ggml_new_tensor_3d(ctx, c_.type_k, d * c_.kv_heads, c_.cells, c_.streams);
    v_cache_ = ggml_new_tensor_3d(ctx, c_.type_v, d * c_.kv_heads, c_.cells, c_.streams);
    ggml_format_name(k_cache_, "cache_k_l%d", c_.layer);
    ggml_format_name(v_cache_, "cache_v_l%d", c_.layer);
    ggml_tensor* q = ggml_permute(ctx, q_, 0, 2, 1, 3);
    if (c_.mask) {
      mask_ = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, c_.cells, c_.queries, 1, c_.streams);
    }
    const float scale = c_.scale != 0.0f ? c_.scale : 1.0f / std::sqrt(static_cast<float>(d));
    op_ = ggml_flash_attn_ext(ctx, q, heads_of(k_cache_), heads_of(v_cache_), mask_, scale,
                              c_.max_bias, c_.softcap);
    if (c_.sinks) {
      sinks_ = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, c_.q_heads);
      ggml_flash_attn_ext_add_sinks(op_, sinks_);
    }
    graph_ = ggml_new_graph(ctx);
    ggml_build_forward_expand(
        graph_, ggml_reshape_3d(ctx, op_, d * c_.q_heads, c_.queries, c_.streams));
  }

  ggml_tensor* heads_of(ggml_tensor* cache) {
    const size_t head = ggml_row_size(cache->type, c_.head_dim);
    return ggml_permute(context_.get(),
                        ggml_view_4d(context_.get(), cache, c_.head_dim, c_.kv_heads, c_.cells,
                                     c_.streams, head, cache->nb[1], cache->nb[2], 0),
                        0, 2, 1, 3);
  }

  void fill() {
    fill_floats(q_, 1.5f);
    fill_floats(k_cache_, 1.0f);
    fill_floats(v_cache_, 1.0f);
    if (sinks_ != nullptr) fill_floats(sinks_, 2.0f);
    if (mask_ == nullptr) return;
    auto* bits = static_cast<ggml_fp16_t*>(mask_->data);
    for (int64_t s = 0; s < c_.streams; ++s) {
      for (int64_t i = 0; i < c_.queries; ++i) {
        for (int64_t j = 0; j < c_.cells; ++j) *bits++ = ggml_fp32_to_fp16(c_.mask(s, i, j));
      }
    }
  }

  void fill_floats(ggml_tensor* t, float spread) {
    std::normal_distribution<float> normal(0.0f, spread);
    std::vector<float> values(ggml_nelements(t));
    for (float& value : values) value = normal(random_);
    if (t->type == GGML_TYPE_F32) {
      std::memcpy(t->data, values.data(), ggml_nbytes(t));
    } else {
      const int64_t rows = ggml_nelements(t) / t->ne[0];
      ggml_quantize_chunk(t->type, values.data(), t->data, 0, rows, t->ne[0], nullptr);
    }
  }

  double mask_value(int64_t s, int64_t i, int64_t j) const {
    if (mask_ == nullptr) return 0.0;
    const auto* bits = static_cast<const ggml_fp16_t*>(mask_->data);
    return ggml_fp16_to_fp32(bits[(s * c_.queries + i) * c_.cells + j]);
  }

  bool visible(int64_t s, int64_t j) const {
    for (int64_t i = 0; i < c_.queries; ++i) {
      if (mask_value(s, i, j) != -std::numeric_limits<double>::infinity()) return true;
    }
    return false;
  }

  void poison_row(ggml_tensor* cache, int64_t s, int64_t j) {
    // All ones is a NaN in f32, f16 and bf16 and a NaN scale in q8_0 and its kin.
    std::memset(static_cast<char*>(cache->data) + s * cache->nb[2] + j * cache->nb[1], 0xff,
                cache->nb[1]);
  }

  std::vector<float> head_rows(const ggml_tensor* cache, int64_t s, int64_t head) const {
    const int64_t d = c_.head_dim;
    std::vector<float> rows(c_.cells * d);
    const auto to_float = ggml_get_type_traits(cache->type)->to_float;
    for (int64_t j = 0; j < c_.cells; ++j) {
      const char* from = static_cast<const char*>(cache->data) + s * cache->nb[2] +
                         j * cache->nb[1] + head * ggml_row_size(cache->type, d);
      if (cache->type == GGML_TYPE_F32) {
        std::memcpy(&rows[j * d], from, d * sizeof(float));
      } else {
        to_float(from, &rows[j * d], d);
      }
    }
    return rows;
  }

  std::vector<float> rows_of(const ggml_tensor* cache, const std::vector<int32_t>& cells) const {
    const int64_t d = c_.head_dim;
    std::vector<float> rows(cells.size() * c_.kv_heads * d);
    for (int64_t h = 0; h < c_.kv_heads; ++h) {
      const std::vector<float> head = head_rows(cache, 0, h);
      for (size_t t = 0; t < cells.size(); ++t) {
        std::memcpy(&rows[(t * c_.kv_heads + h) * d], &head[cells[t] * d], d * sizeof(float));
      }
    }
    return rows;
  }

  double slope(int64_t h) const {
    if (c_.max_bias == 0.0f) return 1.0;
    const double n = std::exp2(std::floor(std::log2(static_cast<double>(c_.q_heads))));
    return h < n ? std::pow(std::exp2(-c_.max_bias / n), h + 1)
                 : std::pow(std::exp2(-c_.max_bias / 2 / n), 2 * (h - n) + 1);
  }

  void expected_row(int64_t s, int64_t h, int64_t i, const std::vector<float>& keys,
                    const std::vector<float>& values, double* out) const {
    const int64_t d = c_.head_dim;
    const float* q = static_cast<const float*>(q_->data) +
                     ((s * c_.queries + i) * c_.q_heads + h) * d;
    const double scale = c_.scale != 0.0f ? c_.scale : 1.0 / std::sqrt(static_cast<double>(d));
    std::vector<double> logits(c_.cells, -std::numeric_limits<double>::infinity());
    double max = c_.sinks ? sink(h) : -std::numeric_limits<double>::infinity();
    for (int64_t j = 0; j < c_.cells; ++j) {
      const double bias = mask_value(s, i, j);
      if (std::isinf(bias)) continue;
      double dot = 0.0;
      for (int64_t x = 0; x < d; ++x) dot += static_cast<double>(q[x]) * keys[j * d + x];
      double logit = dot * scale;
      if (c_.softcap != 0.0f) logit = c_.softcap * std::tanh(logit / c_.softcap);
      logits[j] = logit + slope(h) * bias;
      max = std::max(max, logits[j]);
    }
    double sum = c_.sinks ? std::exp(sink(h) - max) : 0.0;
    for (int64_t j = 0; j < c_.cells; ++j) {
      if (std::isinf(logits[j])) continue;
      const double weight = std::exp(logits[j] - max);
      sum += weight;
      for (int64_t x = 0; x < d; ++x) out[x] += weight * values[j * d + x];
    }
    for (int64_t x = 0; x < d; ++x) out[x] = sum > 0 ? out[x] / sum : 0.0;
  }

  double sink(int64_t h) const { return static_cast<const float*>(sinks_->data)[h]; }

  OpCase c_;
  std::mt19937_64 random_;
  ggml_context_ptr context_;
  ggml_backend_buffer_ptr buffer_;
  ggml_tensor* q_ = nullptr;
  ggml_tensor* k_cache_ = nullptr;
  ggml_tensor* v_cache_ = nullptr;
  ggml_tensor* mask_ = nullptr;
  ggml_tensor* sinks_ = nullptr;
  ggml_tensor* op_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
};

}  // namespace tokensieve::ggml
