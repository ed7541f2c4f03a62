// What a baseline keeps in place of the library's choice, and what is remembered of a choice. Each
// is a hook of the plug-in (tokensieve_ggml_select_fn) for one prompt.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "tokensieve_ggml.h"

namespace tokensieve::eval {

// The sets of one layer.
struct KeptSets {
  int64_t tokens = 0;  // of the prompt
  std::vector<std::vector<int32_t>> sets;
};
using KeptByLayer = std::map<int32_t, KeptSets>;

KeptSets copy_sets(const tokensieve_ggml_selection& selection);

class Selector {
 public:
  virtual ~Selector() = default;
  // Sees and may change the choice of one layer; false: that layer runs dense.
  virtual bool select(tokensieve_ggml_selection& selection) = 0;

  // The plug-in's callback; `user` is the Selector.
  static int hook(tokensieve_ggml_selection* selection, void* user);
};

// As many tokens as the library chose, drawn at random.
std::unique_ptr<Selector> random_selector(uint64_t seed);
// The first `sinks` and the newest tokens, as many as the library chose.
std::unique_ptr<Selector> recent_selector(int32_t sinks);
// The first layer's choice for all layers.
std::unique_ptr<Selector> once_selector();
// What was recorded; layers that were not recorded run dense.
std::unique_ptr<Selector> replay_selector(const KeptByLayer& sets);
// Remembers the choices. Runs dense if `dense`; calls on_layer after each.
std::unique_ptr<Selector> recording_selector(KeptByLayer& sets, bool dense,
                                             std::function<void(int32_t)> on_layer = {});
// First `inner` (may be null), then a copy of what it left.
std::unique_ptr<Selector> inspecting_selector(std::unique_ptr<Selector> inner, KeptByLayer& sets);

}  // namespace tokensieve::eval
