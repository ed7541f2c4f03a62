#include "policy.h"

#include <algorithm>

namespace tokensieve::ggml {
namespace {

// A chunk's last rows choose for all of its rows: with fewer than four observation windows the
// exact part outweighs what selection saves.
constexpr int64_t kWindowsPerRun = 4;

// Chunk mode always keeps the first cells: attention sinks live there (docs/method.md).
constexpr int32_t kProtectFirst = 4;

bool is_for_model(const Profile& profile, const Node& node) {
  ModelFingerprint model = profile.fingerprint;  // architecture and layers: not in the node
  model.num_q_heads = node.num_q_heads;
  model.num_kv_heads = node.num_kv_heads;
  model.head_dim = node.head_dim;
  return check_fingerprint(profile, model).ok();
}

// The reason to run dense, or null.
const char* dense_reason(const Settings& settings, const Node& node, const MaskSegment& segment) {
  if (settings.mode < TOKENSIEVE_GGML_CHUNK) return "mode is dense";
  if (!settings.profile.has_value()) return "no profile";
  const Profile& profile = *settings.profile;
  if (node.layer == kUnknownLayer) return "layer number not found";
  if (!profile.is_sparse(node.layer)) return "layer not in the profile";
  if (!segment.causal) return "mask is not plain causal";
  if (node.softcap != 0.0f || node.sinks != nullptr || node.max_bias != 0.0f) {
    return "softcap, sinks or ALiBi";
  }
  if (segment.num_cells < profile.min_tokens) return "prompt shorter than min_tokens";
  const SelectConfig& select = profile.select_of(node.layer);
  const int64_t least = std::max<int64_t>(Settings::kMinQueries,
                                          kWindowsPerRun * select.obs_window);
  if (segment.num_rows < least) return "few rows";
  const bool whole = segment.num_rows == segment.num_cells;
  if (whole && settings.mode == TOKENSIEVE_GGML_CHUNK) return "first chunk";
  if (!is_for_model(profile, node)) return "profile is for another model";
  return nullptr;
}

}  // namespace

Choice choose(const Settings& settings, const Node& node, const MaskSegment& segment) {
  Choice choice;
  if (const char* reason = dense_reason(settings, node, segment)) {
    choice.reason = reason;
    choice.select.enabled = false;
    return choice;
  }
  choice.sparse = true;
  choice.select = settings.profile->select_of(node.layer);
  choice.select.enabled = true;
  if (settings.always_sparse) choice.select.dense_policy = DensePolicy::kNever;
  if (segment.num_rows == segment.num_cells) {
    choice.select.queries = Queries::kKept;
  } else {
    choice.select.queries = Queries::kAll;
    choice.select.protect_first = std::max(choice.select.protect_first, kProtectFirst);
  }
  return choice;
}

}  // namespace tokensieve::ggml
