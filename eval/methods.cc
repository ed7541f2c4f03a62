#include "eval/methods.h"

#include <algorithm>

namespace tokensieve::eval {
namespace {

constexpr Method kMethods[] = {
    {.name = "stock", .help = "llama.cpp's own attention", .prefill = Prefill::kStock},
    {.name = "dense",
     .help = "our attention without selection; everything is measured against it",
     .prefill = Prefill::kDense},
    {.name = "sparse",
     .help = "the model's profile as it is, min_tokens and break-even included",
     .note = "the profile as shipped: short prompts run dense",
     .start = Start::kShipped,
     .chunks = true},
    {.name = "forced",
     .help = "the profile's selection at every length: no min_tokens, no min_keep",
     .note = "the profile's selection without its length gates",
     .kind = "sparse",
     .chunks = true},
    {.name = "paper",
     .help = "the paper: upper half of the layers, a set per head, tau .005, zeros",
     .note = "arXiv 2602.03216: upper half, tau .005, zero fill",
     .kind = "sparse",
     .start = Start::kPaper,
     .chunks = true},
    {.name = "none",
     .help = "no selection: sinks, a wider window, the last obs_window rows dense",
     .note = "no selection: sinks, a window as wide as equal work allows, last rows dense",
     .prefill = Prefill::kWindow,
     .equal_work = EqualWork::kWindow,
     .chunks = true},
    {.name = "random",
     .help = "as many tokens as forced keeps, drawn at random",
     .note = "random tokens in place of the chosen ones, same fill",
     .chunks = true,
     .selector = [](const SelectorInput& in) { return random_selector(in.seed); }},
    {.name = "recent",
     .help = "sinks and newest tokens only, the rest is forgotten (StreamingLLM)",
     .note = "StreamingLLM style: sinks and newest tokens, the rest leaves the KV cache",
     .equal_work = EqualWork::kTokens,
     .one_set = true,
     .needs_count = true,
     .forgets = true,
     .fill = Fill::kZero,
     .selector = [](const SelectorInput& in) { return recent_selector(in.sinks); }},
    {.name = "evict",
     .help = "one layer chooses, the short prompt is read again (GemFilter)",
     .note = "GemFilter style: one layer's choice, the rest never reaches the KV cache",
     .prefill = Prefill::kEvict,
     .one_set = true,
     .needs_count = true},
    {.name = "once",
     .help = "the first sparse layer chooses for all deeper ones: not reversible",
     .note = "our sets chosen once, never revised: what reversibility is worth",
     .one_set = true,
     .one_count = true,
     .selector = [](const SelectorInput&) { return once_selector(); }},
    {.name = "draft",
     .help = "sets seen in a dense run of the same model (a bound for STS)",
     .note = "STS bound: sets from the model's own dense run, which is not charged",
     .records = true,
     .selector = [](const SelectorInput& in) { return replay_selector(in.recorded); }}};

}  // namespace

std::span<const Method> methods() { return kMethods; }

const Method* find_method(std::string_view name) {
  const auto* end = std::end(kMethods);
  const auto* found =
      std::find_if(std::begin(kMethods), end, [&](const Method& m) { return m.name == name; });
  return found == end ? nullptr : found;
}

const Method& dense_method() { return *find_method("dense"); }

}  // namespace tokensieve::eval
