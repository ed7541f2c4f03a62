// What a task hands to make_case: questions, and a document that can be made in any size.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/case.h"
#include "eval/corpus.h"
#include "eval/random.h"

namespace tokensieve::eval {

// What task "text" goes on with: several hundred tokens, more than anyone measures.
inline constexpr size_t kContinuationBytes = 2000;

struct Draft {
  // A document of about `size` bytes; 0: the facts alone. More bytes never give a shorter one.
  std::function<std::string(size_t size)> document;
  size_t most_bytes = 0;
  Question question;
  std::vector<Question> follow_ups;
  std::string landmark;  // its place in the document is the case's depth; empty: none
};

// What a task may depend on.
struct Setting {
  int32_t length = 0;
  int32_t index = 0;
  Random random;
  Filler filler;
};

Draft single_needle(Setting& setting);
Draft multi_key(Setting& setting);
Draft multi_value(Setting& setting);
Draft multi_query(Setting& setting);
Draft variable_tracking(Setting& setting);
Draft qa(Setting& setting);
Draft common_words(Setting& setting);
Draft frequent_words(Setting& setting);
Draft text(Setting& setting);

// The size whose prompt has 95 to 100 % of `length` tokens, most often 97 % and more.
// Error: the facts alone take more than half of it, or all of the text is not enough.
Result<size_t> fit(const Draft& draft, const std::string& task, int32_t length,
                   const CountTokens& count);

}  // namespace tokensieve::eval
