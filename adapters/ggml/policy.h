// When a run of rows may be sparse. Every doubtful case is dense.
#pragma once

#include "mask.h"
#include "node.h"
#include "settings.h"

namespace tokensieve::ggml {

// Reasons to run dense that only this engine knows; the others are the library's.
inline constexpr const char* kModeIsDense = "mode is dense";
inline constexpr const char* kNoProfile = "no profile";
inline constexpr const char* kLayerUnknown = "layer number not found";
inline constexpr const char* kOtherModel = "profile is for another model";
inline constexpr const char* kMasked = "mask is not plain causal";
inline constexpr const char* kInLogits = "softcap, sinks or ALiBi";
inline constexpr const char* kFirstChunk = "zero fill in a first chunk";
inline constexpr const char* kRunFailed = "sparse run failed";

struct Choice {
  bool sparse = false;
  const char* reason = "";  // why not
  SelectConfig select;      // enabled = false if dense
  BlockConfig blocks;       // over the selected tokens, or over all where a plan drops none
  Products products = Products::kAuto;
};

// Whether a run of rows can ever be sparse, whatever the mode and the profile say; nullptr or why
// not.
const char* never_sparse(const Node& node, const MaskSegment& segment);

Choice choose(const Settings& settings, const Node& node, const MaskSegment& segment);

}  // namespace tokensieve::ggml
