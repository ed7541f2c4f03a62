// The policy of all engines: which calls of a model run sparse, and with which settings.
#include <algorithm>

#include "tokensieve/profile.h"

namespace tokensieve {
namespace {

// A chunk's last rows choose for all of its rows: with fewer than four observation windows the
// exact part outweighs what selection saves.
constexpr int64_t kWindowsPerChunk = 4;

// Chunks with all queries always keep the first tokens: attention sinks live there
// (docs/method.md). Local fill shows them to every row.
constexpr int32_t kProtectFirst = 4;

// A chunk of a prompt: the only place that decides that it runs dense, or what it selects. Rows
// with local fill serve later chunks as those of a whole prompt do; zeros would lose what the later
// chunks ask for, so zero fill answers every query (docs/chunks.md).
DenseReason choose_chunk(const LayerCall& call, SelectConfig& select) {
  if (call.seqlen_q < kWindowsPerChunk * select.obs_window) return DenseReason::kFewRows;
  select.queries = select.fill == Fill::kLocal ? Queries::kKept : Queries::kAll;
  if (select.queries == Queries::kAll) {
    select.protect_first = std::max(select.protect_first, kProtectFirst);
  }
  return DenseReason::kNone;
}

DenseReason choose_select(const Profile& profile, const LayerCall& call, SelectConfig& select) {
  if (call.layer == 0 || !profile.is_sparse(call.layer)) return DenseReason::kLayerNotListed;
  if (!select.enabled) return DenseReason::kDisabled;
  if (!call.plain_causal) return DenseReason::kNotSparsifiable;
  if (call.seqlen_kv < profile.min_tokens) return DenseReason::kBelowMinTokens;
  if (call.seqlen_q < call.seqlen_kv) return choose_chunk(call, select);
  select.queries = Queries::kKept;
  return DenseReason::kNone;
}

// Blocks are for the calls that a profile changes, also where it does not select tokens.
bool takes_blocks(const Profile& profile, const LayerCall& call, const LayerChoice& choice) {
  if (choice.reason == DenseReason::kDisabled) {
    return call.plain_causal && call.seqlen_kv >= profile.min_tokens;
  }
  return choice.reason == DenseReason::kNone && choice.select.queries == Queries::kKept;
}

const LayerSelect* group_of(const Profile& profile, int32_t layer) {
  for (const LayerSelect& group : profile.layer_select) {
    if (std::binary_search(group.layers.begin(), group.layers.end(), layer)) return &group;
  }
  return nullptr;
}

}  // namespace

bool Profile::is_sparse(int32_t layer) const {
  return std::binary_search(sparse_layers.begin(), sparse_layers.end(), layer);
}

const SelectConfig& Profile::select_of(int32_t layer) const {
  const LayerSelect* group = group_of(*this, layer);
  return group != nullptr ? group->select : select;
}

const BlockConfig& Profile::blocks_of(int32_t layer) const {
  const LayerSelect* group = group_of(*this, layer);
  return group != nullptr ? group->blocks : blocks;
}

LayerChoice choose(const Profile& profile, const LayerCall& call) {
  LayerChoice choice{.select = profile.select_of(call.layer), .products = profile.products};
  choice.reason = choose_select(profile, call, choice.select);
  choice.select.enabled = choice.reason == DenseReason::kNone;
  if (takes_blocks(profile, call, choice)) choice.blocks = profile.blocks_of(call.layer);
  return choice;
}

Profile default_profile(const ModelFingerprint& model) {
  Profile profile;
  profile.model = "upper half";
  profile.fingerprint = model;
  profile.select.budget = BudgetPolicy::kKeepRatio;
  profile.select.share = Share::kLayer;
  profile.select.fill = Fill::kLocal;
  for (int32_t l = std::max(1, model.num_layers / 2); l < model.num_layers; ++l) {
    profile.sparse_layers.push_back(l);
  }
  return profile;
}

}  // namespace tokensieve
