#include <algorithm>

#include "eval/draft.h"

namespace tokensieve::cli::eval {
namespace {

constexpr double kGood = 0.97;  // of the wanted length: stop looking
constexpr double kAim = 0.985;  // between kGood and 1
constexpr double kLeast = 0.95;
constexpr double kFirstBytes = 3;      // a token's, in dense text; a guess that seldom overshoots
constexpr int kProportionalSteps = 5;  // then halve: lists and tables need not be proportional
constexpr int kSteps = 24;

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
  double bytes = kFirstBytes * (length - facts);
  for (int step = 0; step < kSteps && low < high; ++step) {
    auto size = static_cast<size_t>(bytes);
    if (step >= kProportionalSteps || size <= low || size > high) size = low + (high - low + 1) / 2;
    if (step < kProportionalSteps && bytes >= static_cast<double>(high)) size = high;
    const int32_t now = tokens(size);
    if (now <= length) {
      low = size;
      low_tokens = now;
      if (now >= kGood * length) break;
    } else {
      high = size - 1;
    }
    const double per_byte = static_cast<double>(now - facts) / static_cast<double>(size);
    if (per_byte > 0) bytes = (kAim * length - facts) / per_byte;
  }
  if (low_tokens < kLeast * length) return too_long(task, length, low_tokens);
  return low;
}

}  // namespace tokensieve::cli::eval
