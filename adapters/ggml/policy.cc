#include "policy.h"

namespace tokensieve::ggml {
namespace {

bool is_for_model(const Profile& profile, const Node& node) {
  ModelFingerprint model = profile.fingerprint;  // architecture and layers: not in the node
  model.num_q_heads = node.num_q_heads;
  model.num_kv_heads = node.num_kv_heads;
  model.head_dim = node.head_dim;
  return check_fingerprint(profile, model).ok();
}

Choice dense(const char* reason) {
  return {.reason = reason, .select = {.enabled = false}, .blocks = {}};
}

Choice choose_path(const Settings& settings, const Node& node, const MaskSegment& segment) {
  if (const char* reason = never_sparse(node, segment)) return dense(reason);
  if (settings.mode < TOKENSIEVE_GGML_SPARSE) return dense(kModeIsDense);
  if (!settings.profile.has_value()) return dense(kNoProfile);
  if (node.layer == kUnknownLayer) return dense(kLayerUnknown);
  const LayerChoice of_profile = tokensieve::choose(*settings.profile,
                                                    {.layer = node.layer,
                                                     .seqlen_q = segment.num_rows,
                                                     .seqlen_kv = segment.num_cells});
  DenseReason reason = of_profile.reason;
  if (segment.num_rows < Settings::kMinQueries && reason == DenseReason::kNone) {
    reason = DenseReason::kFewRows;
  }
  if (reason != DenseReason::kNone) return dense(dense_reason_text(reason));
  // Zeros in rows that a later ubatch needs would lose answers.
  const bool may_go_on = segment.num_rows == segment.num_cells && !settings.whole_prompts;
  if (may_go_on && of_profile.select.fill == Fill::kZero) return dense(kFirstChunk);
  if (!is_for_model(*settings.profile, node)) return dense(kOtherModel);
  Choice choice{.sparse = true, .select = of_profile.select, .blocks = of_profile.blocks};
  if (settings.always_sparse) choice.select.dense_policy = DensePolicy::kNever;
  return choice;
}

}  // namespace

const char* never_sparse(const Node& node, const MaskSegment& segment) {
  if (!segment.plain) return kMasked;
  if (node.softcap != 0.0f || node.sinks != nullptr || node.max_bias != 0.0f) return kInLogits;
  return nullptr;
}

Choice choose(const Settings& settings, const Node& node, const MaskSegment& segment) {
  Choice choice = choose_path(settings, node, segment);
  const bool other_model = settings.profile.has_value() && !is_for_model(*settings.profile, node);
  choice.products = other_model ? settings.products : products_of(settings);
  return choice;
}

}  // namespace tokensieve::ggml
