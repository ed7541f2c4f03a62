// The words that people see for the library's enumerators: profiles, command lines, Python and
// errors take them from here.
//
//   name_of(Fill::kLocal)         "local"
//   parse<Fill>("local")          Fill::kLocal; empty for any other word
//   allowed_words<Fill>()         "zero, local"
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "tokensieve/attention.h"

namespace tokensieve {

// Word i is the one of the enumerator with value i. A specialisation each; others have no words.
template <typename E>
inline constexpr auto kWords = nullptr;

template <>
inline constexpr auto kWords<BudgetPolicy> =
    std::to_array<const char*>({"tau", "keep_ratio", "keep_count"});
template <>
inline constexpr auto kWords<Share> = std::to_array<const char*>({"head", "kv", "layer"});
template <>
inline constexpr auto kWords<Fill> = std::to_array<const char*>({"zero", "local"});
template <>
inline constexpr auto kWords<Queries> = std::to_array<const char*>({"kept", "all"});
template <>
inline constexpr auto kWords<Arithmetic> =
    std::to_array<const char*>({"fp32", "reference_rounding"});
template <>
inline constexpr auto kWords<DensePolicy> = std::to_array<const char*>({"break_even", "never"});
template <>
inline constexpr auto kWords<DType> = std::to_array<const char*>({"f32", "f16", "bf16"});
template <>
inline constexpr auto kWords<Backend> =
    std::to_array<const char*>({"auto", "ref", "cpu", "cuda"});
template <>
inline constexpr auto kWords<Isa> =
    std::to_array<const char*>({"auto", "avx512", "avx2", "sse4", "neon", "baseline", "amx",
                                "amx_emulated"});
template <>
inline constexpr auto kWords<Products> =
    std::to_array<const char*>({"auto", "exact", "split", "bf16"});
template <>
inline constexpr auto kWords<Path> = std::to_array<const char*>({"dense", "sparse"});
template <>
inline constexpr auto kWords<Stage> =
    std::to_array<const char*>({"score", "budget", "select", "compact", "attend", "scatter",
                                "estimate"});
template <>
inline constexpr auto kWords<BlockPattern> =
    std::to_array<const char*>({"none", "given", "scores", "flex", "pooled", "antidiagonal",
                                "vertical_slash"});

// Whether it is one of the enumerators.
template <typename E>
constexpr bool is_valid(E value) {
  return static_cast<int64_t>(value) >= 0 && static_cast<size_t>(value) < kWords<E>.size();
}

template <typename E>
constexpr const char* name_of(E value) {
  return is_valid(value) ? kWords<E>[static_cast<size_t>(value)] : "unknown";
}

template <typename E>
constexpr std::optional<E> parse(std::string_view word) {
  for (size_t i = 0; i < kWords<E>.size(); ++i) {
    if (word == kWords<E>[i]) return static_cast<E>(i);
  }
  return std::nullopt;
}

// All words, for errors, which do not allocate.
template <typename E>
inline constexpr auto kAllowedWords = [] {
  std::array<char, 96> text = {};
  size_t end = 0;
  for (const char* word : kWords<E>) {
    for (const char* c = end == 0 ? "" : ", "; *c != '\0'; ++c) text[end++] = *c;
    for (const char* c = word; *c != '\0'; ++c) text[end++] = *c;
  }
  text.at(end) = '\0';  // more words than fit do not compile
  return text;
}();

template <typename E>
constexpr const char* allowed_words() {
  return kAllowedWords<E>.data();
}

}  // namespace tokensieve
