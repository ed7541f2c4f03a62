// The methods that an evaluation compares, a row each (docs/evaluation.md, "Configurations", says
// what each one does and which paper it follows). A new method is a row of the table, and a
// selector if it keeps other tokens than the library would.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "eval/selectors.h"
#include "tokensieve/select.h"

namespace tokensieve::eval {

// How a prompt is read.
enum class Prefill {
  kStock,   // by llama.cpp's own attention
  kDense,   // by ours, without selection
  kSelect,  // with the sets of the library or of a selector
  kWindow,  // rows see sinks and a window; the last obs_window rows see everything
  kEvict,   // one layer chooses, then the prompt is read again without the rest
};

// Whose settings a method starts from.
enum class Start {
  kShipped,  // the model's profile as it is
  kForced,   // the profile's selection at every length: no min_tokens, min_keep or break-even
  kPaper,    // arXiv 2602.03216
};

// What is raised until a baseline does as much work as the selection that it stands beside.
enum class EqualWork { kNothing, kTokens, kWindow };

// What a selector may depend on.
struct SelectorInput {
  uint64_t seed = 0;  // of the case
  int32_t sinks = 0;
  const KeptByLayer& recorded;  // what a dense run chose, if the method records
};

struct Method {
  const char* name;
  const char* help;
  const char* note = "";  // for the report; names what a proxy leaves out
  const char* kind = name;  // what run files call it; variants of selection are all "sparse"
  Prefill prefill = Prefill::kSelect;
  Start start = Start::kForced;
  EqualWork equal_work = EqualWork::kNothing;
  bool one_set = false;      // needs one set for all heads
  bool one_count = false;    // has one count: where layers keep different shares, as much work
  bool needs_count = false;  // must know the number of tokens beforehand
  bool chunks = false;       // can read a prompt in chunks
  bool records = false;      // first a dense run, whose choices the selector gets; not charged
  bool forgets = false;      // what the first layer drops leaves the KV cache
  std::optional<Fill> fill;  // in place of the profile's
  std::unique_ptr<Selector> (*selector)(const SelectorInput&) = nullptr;  // null: library's sets

  bool selects() const { return prefill != Prefill::kStock && prefill != Prefill::kDense; }
  // Whether other engines can run it from a profile alone: --write-cases.
  bool is_portable() const {
    return prefill == Prefill::kDense || prefill == Prefill::kWindow ||
           (prefill == Prefill::kSelect && selector == nullptr);
  }
};

std::span<const Method> methods();
const Method* find_method(std::string_view name);  // null: there is none
const Method& dense_method();

}  // namespace tokensieve::eval
