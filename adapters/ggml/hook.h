// The host's say in what a sparse layer keeps (tokensieve_ggml_select_fn).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "settings.h"
#include "tokensieve/tokensieve.h"

namespace tokensieve::ggml {

// One run of rows, with what a call of the library needs.
struct HookCall {
  const Plan& plan;  // sparse
  const AttentionInputs& inputs;
  std::function<std::span<std::byte>(size_t)> workspace;
  RunOptions options;
  int32_t layer = -1;
};

class SelectHook {
 public:
  // Lets the library choose, then the host read or change that. `keep` points into this object and
  // holds what to run with: a count of all tokens means dense, for `reason`.
  Status ask(const HookCall& call, const Settings& settings, KeepSet& keep, DenseReason& reason);

 private:
  std::vector<int32_t> kept_;
  int64_t count_ = 0;
};

}  // namespace tokensieve::ggml
