#include "eval/command_text.h"

namespace tokensieve::eval {
namespace {

constexpr const char* kSeparators = "=,: ";  // --output=/a/b, profile=/a/b,keep=.1

}  // namespace

std::string without_folder(const std::string& text) {
  const bool absolute = text.starts_with('/') || text.starts_with('~');
  if (!absolute) return text;
  const size_t end = text.find_last_not_of('/');
  if (end == std::string::npos) return text;  // "/"
  const size_t slash = text.rfind('/', end);
  return slash == std::string::npos ? text : text.substr(slash + 1, end - slash);
}

std::string command_text(std::span<const std::string> words) {
  std::string line;
  for (const std::string& word : words) {
    std::string text;
    for (size_t begin = 0; begin <= word.size();) {
      const size_t end = std::min(word.find_first_of(kSeparators, begin), word.size());
      text += without_folder(word.substr(begin, end - begin));
      if (end < word.size()) text += word[end];
      begin = end + 1;
    }
    const bool plain = text.find_first_of(" \t'\"$&;|<>()*?\\") == std::string::npos;
    if (!line.empty()) line += ' ';
    line += plain ? text : "'" + text + "'";
  }
  return line;
}

}  // namespace tokensieve::eval
