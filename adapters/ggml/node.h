// A FLASH_ATTN_EXT node, read once: shapes, parameters, layer; and what may be claimed.
#pragma once

#include <cstdint>
#include <vector>

#include "ggml.h"
#include "mask.h"
#include "tokensieve/tokensieve.h"

namespace tokensieve::ggml {

inline constexpr int32_t kUnknownLayer = -1;

// Static rule: shapes and types only, because the scheduler asks once and reuses the answer.
bool can_compute(const ggml_tensor* op, int64_t min_queries);

struct Node {
  const ggml_tensor* op = nullptr;
  int32_t layer = kUnknownLayer;
  int32_t head_dim = 0;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int64_t num_queries = 0;  // per stream
  int64_t num_cells = 0;    // per stream
  int64_t num_streams = 0;
  float scale = 0.0f;
  float max_bias = 0.0f;
  float softcap = 0.0f;
  const float* sinks = nullptr;  // f32 [num_q_heads] or null

  // K and V are read in place if both have one of the library's types, else unpacked to f32.
  bool unpack_kv = false;
  DType kv_dtype = DType::kF32;

  // The mask of a stream; rows = 0 if the node has no mask.
  MaskView mask(int64_t stream) const;
  TensorView q(int64_t stream, int64_t first_row, int64_t num_rows) const;
  TensorView k(int64_t stream) const;  // unless unpack_kv
  TensorView v(int64_t stream) const;
  TensorView out(int64_t stream, int64_t first_row, int64_t num_rows) const;
};

// `following` is the next node of the graph or null: its name tells the layer if the cache's does
// not.
Node read_node(const ggml_tensor* op, const ggml_tensor* following);

// Layer number from "cache_k_l7" (a tag may precede k: "cache_swa_k_l7"), else from "kqv_out-7".
int32_t layer_of_cache(const char* name);
int32_t layer_of_output(const char* name);

// ggml's ALiBi slope of every head.
void alibi_slopes(int32_t num_heads, float max_bias, std::vector<float>& slopes);

}  // namespace tokensieve::ggml
