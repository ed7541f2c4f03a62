// A tokenizer for tests: a word, a digit or a run of other signs is a token, and the rest costs
// what it does in SmolLM2's.
#pragma once

#include <cctype>
#include <string_view>

#include "eval/case.h"

namespace tokensieve::eval {

inline constexpr int32_t kTemplateTokens = 30;

inline int32_t count_pieces(std::string_view text) {
  enum class Kind { kSpace, kWord, kDigit, kOther };
  const auto kind = [](unsigned char c) {
    if (std::isspace(c)) return Kind::kSpace;
    if (std::isdigit(c)) return Kind::kDigit;
    return c >= 0x80 || std::isalpha(c) ? Kind::kWord : Kind::kOther;
  };
  int32_t pieces = 0;
  Kind before = Kind::kSpace;
  for (const char c : text) {
    const Kind now = kind(static_cast<unsigned char>(c));
    pieces += now != Kind::kSpace && (now != before || now == Kind::kDigit);
    before = now;
  }
  return pieces;
}

inline int32_t count_prompt(std::string_view document, const Question& question) {
  if (question.text.empty()) return count_pieces(document);
  return kTemplateTokens + count_pieces(document) + count_pieces(question.text) +
         count_pieces(question.answer_prefix);
}

}  // namespace tokensieve::eval
