// Tasks that count words in a list: nothing to find in one place, every part of it matters.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "eval/draft.h"

namespace tokensieve::eval {
namespace {

using Strings = std::vector<std::string>;

// How often each word stands in the list; shuffled, then written as one line of text.
std::string write_list(const std::string& heading, const Strings& words,
                       const std::vector<uint32_t>& counts, Random random) {
  Strings list;
  for (size_t i = 0; i < counts.size(); ++i) list.insert(list.end(), counts[i], words[i]);
  random.shuffle(list);
  std::string text = heading;
  for (const std::string& word : list) (text += ' ') += word;
  return text;
}

Question top_question(size_t count, const std::string& what, const Strings& words) {
  return {fmt::format("What are the {} most common {} in the list above?", count, what),
          fmt::format("The {} most common {} in the list are:\n1.", count, what),
          {words.begin(), words.begin() + static_cast<std::ptrdiff_t>(count)}};
}

// Words of which none contains another among the first `count`: their names are scored.
Strings with_distinct_front(Strings words, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const auto clashes = [&](const std::string& word) {
      return std::any_of(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(i),
                         [&](const std::string& earlier) {
                           return word.find(earlier) != std::string::npos ||
                                  earlier.find(word) != std::string::npos;
                         });
    };
    words.erase(
        std::remove_if(words.begin() + static_cast<std::ptrdiff_t>(i), words.end(), clashes),
        words.end());
  }
  return words;
}

// How often every word but the common ones stands in the list. RULER: 3 times, once in short lists;
// more often where the filler has too few different words for the length.
uint32_t rare_count(int32_t length, size_t vocabulary_bytes) {
  constexpr size_t kMostBytesPerToken = 8;
  const size_t bytes = kMostBytesPerToken * static_cast<size_t>(std::max(length, 1));
  const auto needed = static_cast<uint32_t>(bytes / vocabulary_bytes + 1);
  return std::max(length < 4096 ? 1U : 3U, needed);
}

// A word that is none: three syllables.
std::string made_up_word(Random& random) {
  constexpr std::string_view kConsonants = "bdfgklmnprstvz", kVowels = "aeiou";
  std::string word;
  for (int i = 0; i < 3; ++i) {
    word += kConsonants[random.below(kConsonants.size())];
    word += kVowels[random.below(kVowels.size())];
  }
  return word;
}

}  // namespace

// Words of the filler in random order: ten stand there ten times as often as each of the others.
Draft common_words(Setting& setting) {
  constexpr size_t kCommon = 10;
  constexpr uint32_t kTimesAsOften = 10;
  const std::string heading =
      "This is a list of words. Some of them appear much more often than the others.\n\n";
  Strings words = vocabulary(setting.filler);
  setting.random.shuffle(words);
  words = with_distinct_front(std::move(words), kCommon);
  size_t vocabulary_bytes = 0;
  for (const std::string& word : words) vocabulary_bytes += word.size() + 1;
  const uint32_t rare = rare_count(setting.length, vocabulary_bytes);

  Draft draft;
  draft.question = top_question(kCommon, "words", words);
  draft.document = [=, random = setting.random](size_t size) {
    std::vector<uint32_t> counts(kCommon, kTimesAsOften * rare);
    size_t bytes = heading.size();
    for (size_t i = 0; i < kCommon; ++i) bytes += counts[i] * (words[i].size() + 1);
    for (size_t i = kCommon; i < words.size(); ++i) {
      bytes += rare * (words[i].size() + 1);
      if (bytes > size) break;
      counts.push_back(rare);
    }
    return write_list(heading, words, counts, random);
  };
  draft.most_bytes = heading.size() + kTimesAsOften * rare * vocabulary_bytes;
  return draft;
}

// Made-up words whose k-th appears in proportion to 1 / (k + 1)^2 (RULER's Zipf law, whose first is
// noise); the first three are asked.
Draft frequent_words(Setting& setting) {
  constexpr size_t kAsked = 3, kWords = 600;
  constexpr size_t kBytes = 7;           // a word and its space
  constexpr uint64_t kNormalizer = 645;  // 1000 * (pi^2 / 6 - 1), the sum of all 1 / (k + 1)^2
  const std::string heading = "This is a list of coded words.\n\n";
  std::set<std::string> drawn;
  Strings words;
  while (words.size() < kWords) {
    std::string word = made_up_word(setting.random);
    if (drawn.insert(word).second) words.push_back(std::move(word));
  }

  Draft draft;
  draft.question = top_question(kAsked, "coded words", words);
  draft.document = [=, random = setting.random](size_t size) {
    const uint64_t total = size / kBytes;
    std::vector<uint32_t> counts;
    for (size_t k = 1; k <= kWords; ++k) {
      const uint64_t count = 1000 * total / (kNormalizer * (k + 1) * (k + 1));
      if (count == 0) break;
      counts.push_back(static_cast<uint32_t>(count));
    }
    return write_list(heading, words, counts, random);
  };
  draft.most_bytes = size_t{1} << 21;  // more than any model reads
  return draft;
}

}  // namespace tokensieve::eval
