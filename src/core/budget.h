// Stages budget and select on the host: from token scores to kept tokens. Shared by the backends
// that choose on the CPU; the oracle has its own in src/ref.
//
// Everything is deterministic: sums run in double over a fixed order, ties go to the lowest index.
#pragma once

#include <cstdint>
#include <span>

#include "tokensieve/select.h"

namespace tokensieve {

// Average pooling, zero padding counted in the divisor. pooled and score must not overlap.
// kReferenceRounding rounds score and pooled to bf16.
void smooth(std::span<const float> score, int pool_width, Arithmetic arithmetic,
            std::span<float> pooled);

// Mean of `rows` smoothed rows of mean.size() tokens, `row_stride` apart, in double (then rounded
// to bf16 in kReferenceRounding).
void mean_rows(const float* pooled, int64_t rows, int64_t row_stride, Arithmetic arithmetic,
               std::span<double> mean);

// The tau rule on the head mean, which it normalises and sorts in place: how many tokens may be
// dropped (the "one more" included; 0: none).
int64_t drop_count(std::span<double> mean, double tau, Arithmetic arithmetic);

// Kept prefix tokens; `drop` is used by the tau budget only. prefix_len means nothing to drop.
int64_t keep_count(const SelectConfig& select, int64_t prefix_len, int64_t drop);

// Writes the `keep` tokens of largest score, ascending, ties to the lowest index; the first
// `protect_first` always among them. scratch holds score.size() floats. `normalise`: rank
// bf16(score / bf16 sum) as the official code does (kReferenceRounding).
void top_tokens(std::span<const float> score, int64_t keep, int64_t protect_first, bool normalise,
                std::span<float> scratch, int32_t* indices);

// False if any value is NaN or infinite.
bool all_finite(std::span<const float> values);

// Rounds to bf16, nearest even.
float round_bf16(float x);

}  // namespace tokensieve
