// When a run of rows may be sparse. Every doubtful case is dense.
#pragma once

#include "mask.h"
#include "node.h"
#include "settings.h"

namespace tokensieve::ggml {

struct Choice {
  bool sparse = false;
  const char* reason = "";  // why not
  SelectConfig select;      // enabled = false if dense
};

Choice choose(const Settings& settings, const Node& node, const MaskSegment& segment);

}  // namespace tokensieve::ggml
