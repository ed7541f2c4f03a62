#include <algorithm>

#include "eval/case.h"

namespace tokensieve::eval {
namespace {

// ASCII only: what is expected is ASCII.
std::string lower(std::string_view text) {
  std::string lowered(text);
  for (char& c : lowered) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lowered;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Neither end of the match cuts a number in two.
bool is_whole(const std::string& text, size_t begin, size_t end) {
  const bool cut_front = begin > 0 && is_digit(text[begin]) && is_digit(text[begin - 1]);
  const bool cut_back = end < text.size() && is_digit(text[end - 1]) && is_digit(text[end]);
  return !cut_front && !cut_back;
}

bool contains(const std::string& text, const std::string& wanted) {
  if (wanted.empty()) return true;
  for (size_t at = text.find(wanted); at != std::string::npos; at = text.find(wanted, at + 1)) {
    if (is_whole(text, at, at + wanted.size())) return true;
  }
  return false;
}

}  // namespace

double score(const Question& question, std::string_view answer) {
  if (question.expected.empty()) return 1;
  const std::string text = lower(answer);
  const auto found =
      std::count_if(question.expected.begin(), question.expected.end(),
                    [&](const std::string& wanted) { return contains(text, lower(wanted)); });
  return static_cast<double>(found) / static_cast<double>(question.expected.size());
}

}  // namespace tokensieve::eval
