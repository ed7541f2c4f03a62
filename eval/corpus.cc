#include "eval/corpus.h"

#include <algorithm>
#include <array>
#include <set>

#include "common/files.h"
#include "common/paths.h"

namespace tokensieve::eval {
namespace {

constexpr std::array<std::string_view, 4> kKinds = {"fiction", "technical", "code", "tables"};

// After these a full stop ends no sentence.
constexpr std::array<std::string_view, 11> kAbbreviations = {
    "Mr", "Mrs", "Dr", "St", "Messrs", "Capt", "Col", "vs", "e.g", "i.e", "etc"};

bool is_prose(std::string_view kind) { return kind == "fiction" || kind == "technical"; }
bool is_space(char c) { return c == ' ' || c == '\n'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_letter(char c) { return is_lower(c) || is_upper(c); }

// Whether text[space], a space, separates two sentences.
bool ends_sentence(std::string_view text, size_t space) {
  if (space + 1 >= text.size() || !(is_upper(text[space + 1]) || text[space + 1] == '"')) {
    return false;
  }
  size_t stop = space;  // one past the sentence's last mark
  while (stop > 0 && (text[stop - 1] == '"' || text[stop - 1] == ')')) --stop;
  if (stop == 0) return false;
  const char mark = text[stop - 1];
  if (mark == '!' || mark == '?') return true;
  if (mark != '.') return false;
  size_t word = stop - 1;
  while (word > 0 && !is_space(text[word - 1]) && text[word - 1] != '"' && text[word - 1] != '(') {
    --word;
  }
  const std::string_view last = text.substr(word, stop - 1 - word);
  const bool initial = last.size() == 1 && is_upper(last[0]);
  return !initial &&
         std::find(kAbbreviations.begin(), kAbbreviations.end(), last) == kAbbreviations.end();
}

std::vector<uint32_t> find_cuts(std::string_view text, bool prose) {
  std::vector<uint32_t> cuts = {0};
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    const bool cut = text[i] == '\n' || (prose && text[i] == ' ' && ends_sentence(text, i));
    if (cut) cuts.push_back(static_cast<uint32_t>(i + 1));
  }
  return cuts;
}

}  // namespace

std::span<const std::string_view> filler_kinds() { return kKinds; }

Result<Filler> load_filler(std::string_view kind) {
  const auto relative = std::filesystem::path("data/eval") / (std::string(kind) + ".txt");
  const auto path = cli::find_shared(relative);
  if (!path) {
    return Status::error(StatusCode::kNotFound,
                         "%s is missing; it belongs to tokensieve: install it, or name the folder "
                         "above data/ in TOKENSIEVE_SHARE",
                         relative.c_str());
  }
  Result<std::string> text = cli::read_text(path->string());
  if (!text.ok()) return text.status();
  Filler filler{std::string(kind), std::move(text.value()), {}};
  filler.cuts = find_cuts(filler.text, is_prose(kind));
  return filler;
}

Filler rotate(const Filler& filler, size_t cut) {
  const uint32_t start = filler.cuts[cut];
  Filler rotated{filler.kind, filler.text.substr(start) + filler.text.substr(0, start), {}};
  const auto size = static_cast<uint32_t>(filler.text.size());
  const auto count = filler.cuts.size();
  for (size_t i = 0; i < count; ++i) {
    const uint32_t old = filler.cuts[(cut + i) % count];
    rotated.cuts.push_back(old >= start ? old - start : old + size - start);
  }
  return rotated;
}

size_t prefix_size(const Filler& filler, size_t size) {
  size = std::min(size, filler.text.size());
  const auto above = std::upper_bound(filler.cuts.begin(), filler.cuts.end(), size);
  const size_t cut = *std::prev(above);  // cuts begin with 0
  if (cut > 0 && cut >= size - size / 50) return cut;
  while (size > 0 && !is_space(filler.text[size - 1])) --size;
  return size;
}

std::string weave(const Filler& filler, size_t prefix, std::span<const Fact> facts) {
  const auto end = std::upper_bound(filler.cuts.begin(), filler.cuts.end(), prefix);
  std::string document;
  size_t done = 0;
  for (const Fact& fact : facts) {
    const uint64_t wanted = (static_cast<uint64_t>(prefix) * fact.depth) >> 32;
    auto cut = std::lower_bound(filler.cuts.begin(), end, wanted);
    if (cut == end) --cut;
    const size_t place = std::max<size_t>(*cut, done);
    document.append(filler.text, done, place - done);
    document += fact.sentence;
    document += place == 0 ? '\n' : filler.text[place - 1];
    done = place;
  }
  document.append(filler.text, done, prefix - done);
  while (!document.empty() && is_space(document.back())) document.pop_back();
  return document;
}

std::vector<std::string> vocabulary(const Filler& filler) {
  constexpr size_t kLeast = 4, kMost = 9;
  std::set<std::string> words;
  const std::string_view text = filler.text;
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && is_letter(text[end])) ++end;
    const std::string_view word = text.substr(i, end - i);
    const bool fragment = end < text.size() && text[end] == '\'';  // the "didn" of "didn't"
    if (word.size() >= kLeast && word.size() <= kMost && !fragment &&
        std::all_of(word.begin(), word.end(), is_lower)) {
      words.emplace(word);
    }
    i = end + 1;
  }
  return {words.begin(), words.end()};
}

}  // namespace tokensieve::eval
