#include "core/budget.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

namespace tokensieve {

float round_bf16(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return x;  // NaN
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return std::bit_cast<float>(bits & 0xffff0000u);
}

void smooth(std::span<const float> score, int pool_width, Arithmetic arithmetic,
            std::span<float> pooled) {
  const int64_t n = static_cast<int64_t>(score.size());
  const int64_t half = pool_width / 2;
  const bool reference = arithmetic == Arithmetic::kReferenceRounding;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t begin = std::max<int64_t>(0, i - half);
    const int64_t end = std::min(n, i + half + 1);
    if (reference) {
      float sum = 0.0f;
      for (int64_t j = begin; j < end; ++j) sum += round_bf16(score[j]);
      pooled[i] = round_bf16(sum / static_cast<float>(pool_width));
    } else {
      double sum = 0.0;
      for (int64_t j = begin; j < end; ++j) sum += score[j];
      pooled[i] = static_cast<float>(sum / pool_width);
    }
  }
}

void mean_rows(const float* pooled, int64_t rows, int64_t row_stride, Arithmetic arithmetic,
               std::span<double> mean) {
  const int64_t n = static_cast<int64_t>(mean.size());
  const bool reference = arithmetic == Arithmetic::kReferenceRounding;
  for (int64_t i = 0; i < n; ++i) {
    if (reference) {
      float sum = 0.0f;
      for (int64_t r = 0; r < rows; ++r) sum += pooled[r * row_stride + i];
      mean[i] = round_bf16(sum / static_cast<float>(rows));
    } else {
      double sum = 0.0;
      for (int64_t r = 0; r < rows; ++r) sum += pooled[r * row_stride + i];
      mean[i] = sum / static_cast<double>(rows);
    }
  }
}

int64_t drop_count(std::span<double> mean, double tau, Arithmetic arithmetic) {
  int64_t drop = 0;
  if (arithmetic == Arithmetic::kReferenceRounding) {
    float sum = 0.0f;
    for (double value : mean) sum += static_cast<float>(value);
    const float divisor = round_bf16(round_bf16(sum) + 1e-8f);
    for (double& value : mean) value = round_bf16(static_cast<float>(value) / divisor);
    std::sort(mean.begin(), mean.end());
    float running = 0.0f;
    for (double value : mean) {
      running += static_cast<float>(value);
      if (!(running < static_cast<float>(tau))) break;
      ++drop;
    }
  } else {
    double sum = 0.0;
    for (double value : mean) sum += value;
    const double divisor = sum + 1e-8;
    std::sort(mean.begin(), mean.end());
    double running = 0.0;
    for (double value : mean) {
      running += value / divisor;
      if (!(running < tau)) break;
      ++drop;
    }
  }
  return drop == 0 ? 0 : drop + 1;
}

int64_t keep_count(const SelectConfig& select, int64_t prefix_len, int64_t drop) {
  int64_t keep = prefix_len;
  switch (select.budget) {
    case BudgetPolicy::kTau:
      keep = drop == 0 ? prefix_len : prefix_len - drop;
      break;
    case BudgetPolicy::kKeepRatio:
      keep = static_cast<int64_t>(std::floor(select.keep_ratio * static_cast<double>(prefix_len)));
      break;
    case BudgetPolicy::kKeepCount:
      keep = select.keep_count;
      break;
  }
  keep = std::max({keep, select.min_keep, static_cast<int64_t>(select.protect_first)});
  return std::min(keep, prefix_len);
}

void top_tokens(std::span<const float> score, int64_t keep, int64_t protect_first, bool normalise,
                std::span<float> scratch, int32_t* indices) {
  const int64_t n = static_cast<int64_t>(score.size());
  const int64_t protect = std::min({protect_first, keep, n});
  float divisor = 1.0f;
  if (normalise) {
    float sum = 0.0f;
    for (float value : score) sum += value;
    divisor = round_bf16(round_bf16(sum) + 1e-8f);
  }
  const auto rank = [&](int64_t i) {
    return normalise ? round_bf16(score[i] / divisor) : score[i];
  };

  int64_t written = 0;
  for (; written < protect; ++written) indices[written] = static_cast<int32_t>(written);
  const int64_t wanted = keep - protect;
  if (wanted == 0) return;

  float* values = scratch.data();
  const int64_t candidates = n - protect;
  for (int64_t i = 0; i < candidates; ++i) values[i] = rank(protect + i);
  std::nth_element(values, values + (wanted - 1), values + candidates, std::greater<float>());
  const float threshold = values[wanted - 1];
  const int64_t above =
      std::count_if(values, values + wanted, [&](float v) { return v > threshold; });
  int64_t ties = wanted - above;
  for (int64_t i = protect; i < n; ++i) {
    const float value = rank(i);
    if (value < threshold || (value == threshold && ties == 0)) continue;
    if (value == threshold) --ties;
    indices[written++] = static_cast<int32_t>(i);
  }
}

bool all_finite(std::span<const float> values) {
  uint32_t worst = 0;
  for (float value : values) {
    worst = std::max(worst, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
  }
  return worst < 0x7f800000u;
}

}  // namespace tokensieve
