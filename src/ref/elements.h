// Reads and writes single tensor elements of any dtype as double.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "tokensieve/tensor.h"

namespace tokensieve::ref {

// Small float formats by their mantissa bits, smallest normal exponent and bits of infinity.
struct SmallFloat {
  int mantissa;
  int min_exponent;
  uint16_t infinity;
};
inline constexpr SmallFloat kF16 = {10, -14, 0x7c00};
inline constexpr SmallFloat kBF16 = {7, -126, 0x7f80};

// Rounds once, to nearest even.
inline uint16_t encode(double x, SmallFloat format) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return sign | format.infinity | (1u << (format.mantissa - 1));
  const double magnitude = std::fabs(x);
  if (magnitude == 0.0) return sign;
  if (std::isinf(x) || magnitude >= 0x1p129) return sign | format.infinity;
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude in [2^(exponent-1), 2^exponent)
  exponent = exponent - 1 < format.min_exponent ? format.min_exponent : exponent - 1;
  // Counted in units of the last place: a carry moves into the exponent by itself, and subnormal
  // numbers have fewer than 2^mantissa units.
  const auto units =
      static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, format.mantissa - exponent)));
  const uint32_t bits =
      (static_cast<uint32_t>(exponent - format.min_exponent) << format.mantissa) + units;
  return sign | static_cast<uint16_t>(bits < format.infinity ? bits : format.infinity);
}

inline double decode(uint16_t bits, SmallFloat format) {
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  const int magnitude = bits & 0x7fff;
  if (magnitude > format.infinity) return std::numeric_limits<double>::quiet_NaN();
  if (magnitude == format.infinity) return sign * std::numeric_limits<double>::infinity();
  const int one = 1 << format.mantissa;
  const int exponent = magnitude >> format.mantissa;
  const int units = exponent == 0 ? magnitude : (magnitude & (one - 1)) + one;
  const int scale = (exponent == 0 ? 0 : exponent - 1) + format.min_exponent - format.mantissa;
  return sign * std::ldexp(units, scale);
}

inline double round_to(double x, SmallFloat format) { return decode(encode(x, format), format); }

// Offset, in elements, of row [b, s, h].
inline int64_t row_offset(const TensorView& view, int64_t b, int64_t s, int64_t h) {
  return b * view.strides[0] + s * view.strides[1] + h * view.strides[2];
}

inline double load(const TensorView& view, int64_t offset) {
  if (view.dtype == DType::kF32) return static_cast<const float*>(view.data)[offset];
  const uint16_t bits = static_cast<const uint16_t*>(view.data)[offset];
  if (view.dtype == DType::kF16) return decode(bits, kF16);
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

inline void store(const TensorView& view, int64_t offset, double x) {
  switch (view.dtype) {
    case DType::kF32:
      static_cast<float*>(view.data)[offset] = static_cast<float>(x);
      break;
    case DType::kF16:
      static_cast<uint16_t*>(view.data)[offset] = encode(x, kF16);
      break;
    case DType::kBF16:
      static_cast<uint16_t*>(view.data)[offset] = encode(x, kBF16);
      break;
  }
}

// Row [b, s, h] as doubles.
inline void load_row(const TensorView& view, int64_t b, int64_t s, int64_t h, double* row) {
  const int64_t offset = row_offset(view, b, s, h);
  for (int64_t d = 0; d < view.shape[3]; ++d) row[d] = load(view, offset + d);
}

}  // namespace tokensieve::ref
