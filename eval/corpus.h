// The text around the facts: real text of several kinds, shipped in data/eval.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokensieve/status.h"

namespace tokensieve::eval {

// "fiction", "technical", "code" and "tables".
std::span<const std::string_view> filler_kinds();

struct Filler {
  std::string kind;
  std::string text;
  // Offsets, ascending from 0, at which a sentence (of prose) or a line begins.
  std::vector<uint32_t> cuts;
};

// The whole text of one kind. Error: the file is missing or no text.
Result<Filler> load_filler(std::string_view kind);
// The same text, starting at `cut` and going on at its old beginning after its old end.
Filler rotate(const Filler& filler, size_t cut);

// A prefix of at most `size` bytes that ends with a sentence or line if one ends in its last 2 %,
// else with a word.
size_t prefix_size(const Filler& filler, size_t size);

struct Fact {
  uint32_t depth = 0;  // of 2^32: 0 is the beginning of the document
  std::string sentence;
};

// A prefix of the filler with every fact before the first sentence or line at its depth or later.
// Facts at one place keep their order. No white space at the end.
std::string weave(const Filler& filler, size_t prefix, std::span<const Fact> facts);

// The different lower-case words of 4 to 9 letters, in alphabetical order.
std::vector<std::string> vocabulary(const Filler& filler);

}  // namespace tokensieve::eval
