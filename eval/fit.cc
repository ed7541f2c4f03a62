#include <algorithm>

#include "eval/draft.h"

namespace tokensieve::eval {
namespace {

// Whole numbers: a fraction that rounds otherwise on another machine would end another document.
constexpr int64_t kGood = 970;  // thousandths of the wanted length: stop looking
constexpr int64_t kAim = 985;   // between kGood and all
constexpr int64_t kLeast = 950;
constexpr int64_t kFirstBytes = 3;     // a token's, in dense text; a guess that seldom overshoots
constexpr int kProportionalSteps = 5;  // then halve: lists and tables need not be proportional
constexpr int kSteps = 24;

int64_t thousandths(int64_t share, int32_t length) { return (share * length + 999) / 1000; }

Status too_short(const std::string& task, int32_t length, int32_t facts) {
  return Status::error(StatusCode::kInvalidArgument,
                       "task %s at length %d: its facts and question take %d tokens with this "
                       "model, at most half of the prompt; allowed: %d and more",
                       task.c_str(), length, facts, 2 * facts);
}

Status too_long(const std::string& task, int32_t length, int32_t most) {
  return Status::error(StatusCode::kInvalidArgument,
                       "task %s at length %d: the text for it ends after %d tokens of this model; "
                       "allowed: at most that",
                       task.c_str(), length, most);
}

}  // namespace

// Counting costs a tenth of a second at 128K tokens, so this looks at few sizes: text has about as
// many tokens a byte everywhere.
Result<size_t> fit(const Draft& draft, const std::string& task, int32_t length,
                   const CountTokens& count) {
  const auto tokens = [&](size_t size) { return count(draft.document(size), draft.question); };
  const int32_t facts = tokens(0);
  if (length < 2 * facts || length < 1) return too_short(task, length, facts);

  size_t low = 0, high = draft.most_bytes;  // `low` fits
  int32_t low_tokens = facts;
  auto guess = static_cast<size_t>(kFirstBytes * (length - facts));
  for (int step = 0; step < kSteps && low < high; ++step) {
    const bool halve = step >= kProportionalSteps || guess <= low;
    const size_t size = halve ? low + (high - low + 1) / 2 : std::min(guess, high);
    const int32_t now = tokens(size);
    if (now <= length) {
      low = size;
      low_tokens = now;
      if (now >= thousandths(kGood, length)) break;
    } else {
      high = size - 1;
    }
    if (now > facts) {
      const int64_t wanted = thousandths(kAim, length) - facts;
      guess = static_cast<size_t>(wanted * static_cast<int64_t>(size) / (now - facts));
    }
  }
  if (low_tokens < thousandths(kLeast, length)) return too_long(task, length, low_tokens);
  return low;
}

}  // namespace tokensieve::eval
