// Between the structs of tokensieve_c.h and those of the C++ surface.
//
// A C struct may be newer (longer) than this library's: read_struct refuses fields that it does not
// know, unless they are 0.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "tokensieve/attention.h"
#include "tokensieve/tokensieve_blocks_c.h"
#include "tokensieve/tokensieve_products_c.h"
#include "tokensieve/version.h"

namespace tokensieve {

// Larger than any struct will be: a size above it was never initialised.
inline constexpr uint32_t kMaxStructSize = 4096;

// The size that a struct was born with. One that has grown still accepts it; what is missing is 0,
// which every field added later must have as its default.
template <typename T>
inline constexpr size_t kBornSize = sizeof(T);
template <>
inline constexpr size_t kBornSize<tokensieve_shape> = offsetof(tokensieve_shape, packed);
template <>
inline constexpr size_t kBornSize<tokensieve_select> =
    offsetof(tokensieve_select, sinks) + 2 * sizeof(int32_t);
template <>
inline constexpr size_t kBornSize<tokensieve_inputs> = offsetof(tokensieve_inputs, cu_seqlens_q);
template <>
inline constexpr size_t kBornSize<tokensieve_blocks> = offsetof(tokensieve_blocks, verticals);
template <>
inline constexpr size_t kBornSize<tokensieve_options> = offsetof(tokensieve_options, num_ranks);
template <>
inline constexpr size_t kBornSize<tokensieve_run_options> =
    offsetof(tokensieve_run_options, stream);

// Copies *in to out.
template <typename T>
Status read_struct(const T* in, const char* name, T& out) {
  if (in == nullptr) {
    return Status::error(StatusCode::kInvalidArgument, "%s is NULL; pass an initialised struct",
                         name);
  }
  const uint32_t size = in->struct_size;
  if (size < kBornSize<T> || size > kMaxStructSize) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s.struct_size is %u; allowed: %zu (call its tokensieve_..._init)", name,
                         size, sizeof(T));
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(in);
  if (size > sizeof(T) &&
      std::any_of(bytes + sizeof(T), bytes + size, [](unsigned char b) { return b != 0; })) {
    return Status::error(StatusCode::kUnsupported,
                         "%s sets a field that tokensieve %s does not know; update the library or "
                         "leave the field 0",
                         name, TOKENSIEVE_VERSION_STRING);
  }
  out = {};
  std::memcpy(&out, in, std::min<size_t>(size, sizeof(T)));
  return {};
}

// Writes `value` to a caller's struct of `size` bytes.
template <typename T>
void write_struct(const T& value, size_t size, T* out) {
  if (size < sizeof(uint32_t) || size > kMaxStructSize) return;
  std::memcpy(out, &value, std::min(size, sizeof(T)));
  out->struct_size = static_cast<uint32_t>(size);
}

// To one whose size init has set.
template <typename T>
void write_struct(const T& value, T* out) {
  write_struct(value, out->struct_size, out);
}

Status from_c(const tokensieve_shape* in, AttentionShape& out);
Status from_c(const tokensieve_select* in, SelectConfig& out);    // NULL: defaults
Status from_c(const tokensieve_blocks* in, BlockConfig& out);     // NULL: defaults
Status from_c(const tokensieve_options* in, PlanOptions& out);    // NULL: defaults
Status from_c(const tokensieve_tensor* in, const char* name, TensorView& out);
Status from_c(const tokensieve_inputs* in, AttentionInputs& out);
Status from_c(const tokensieve_outputs* in, AttentionOutputs& out);
Status from_c(const tokensieve_keep_set* in, KeepSet& out);
Status from_c(const tokensieve_block_mask* in, const char* name, BlockMask& out);

tokensieve_shape to_c(const AttentionShape& in);
tokensieve_select to_c(const SelectConfig& in);
tokensieve_blocks to_c(const BlockConfig& in);
tokensieve_options to_c(const PlanOptions& in);
tokensieve_report to_c(const RunReport& in);
tokensieve_plan_info to_c(const Plan& in);

}  // namespace tokensieve
