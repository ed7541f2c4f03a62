// Golden cases (tests/golden/README.md): inputs and the float64 result of every stage, one case a
// safetensors file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tokensieve/attention.h"

namespace tokensieve::verify {

struct GoldenCase {
  std::string name;  // file name without its ending
  AttentionShape shape;
  SelectConfig select;                    // dense_policy is kNever
  std::vector<uint16_t> q, k, v;          // bf16 [heads, seq, dim]; q has the newest seqlen_q
  std::vector<float> score, pooled;       // [num_q_heads, prefix]
  std::vector<float> layer;               // [prefix]
  std::vector<int32_t> indices;           // [num_q_heads, kept]
  std::vector<int32_t> official_indices;  // [num_q_heads, official_kept] or empty
  std::vector<uint16_t> output;           // f16 [num_q_heads, seqlen_q, dim]
  int64_t drop = 0;                       // before the one more
  int64_t keep = 0;
  int64_t kept = 0;           // keep + obs_window
  int64_t official_kept = 0;  // columns of official_indices
  int64_t pairs = 0;          // computed (query, key) pairs of all heads; 0: the file has none

  int64_t prefix_len() const { return shape.seqlen_kv - select.obs_window; }
  AttentionInputs inputs() const;
  // What a report says where `pairs` is given.
  double work() const;
};

// kNotFound, kDataError.
Result<GoldenCase> load_golden(const std::string& path);

// The golden files of a folder, sorted by name. kNotFound if it is none or has none.
Result<std::vector<std::string>> list_golden(const std::string& folder);

}  // namespace tokensieve::verify
