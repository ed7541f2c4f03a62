// Layer profile: which layers of a model run sparse, and how. JSON on disk (docs/profile.md).
//
//   const LayerChoice choice = choose(profile, {.layer = 7, .seqlen_q = 8192, .seqlen_kv = 8192});
//   make_plan(shape, choice.select, choice.blocks,   // dense if choice.reason says why
//             {.products = choice.products});
#pragma once

#include <string>
#include <vector>

#include "tokensieve/attention.h"
#include "tokensieve/export.h"
#include "tokensieve/select.h"
#include "tokensieve/status.h"

namespace tokensieve {

// What must match before a profile is used on a model.
struct ModelFingerprint {
  std::string architecture;  // e.g. "llama"; empty matches any
  int32_t num_layers = 0;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
};

// Settings of some layers that differ from those of all: deep layers often need fewer tokens.
struct LayerSelect {
  std::vector<int32_t> layers;  // ascending
  SelectConfig select;
  BlockConfig blocks;
};

struct TOKENSIEVE_API Profile {
  std::string model;  // a name for people
  ModelFingerprint fingerprint;
  std::vector<int32_t> sparse_layers;  // ascending; never 0
  SelectConfig select;                     // of sparse layers that layer_select does not name
  BlockConfig blocks;                      // likewise; an estimator, or none
  std::vector<LayerSelect> layer_select;   // no layer twice
  int64_t min_tokens = 4096;               // shorter prompts run dense
  Products products = Products::kAuto;     // of every call of the model, dense ones too
  std::vector<double> drift;               // per layer, normalised to sum 1; may be empty

  bool is_sparse(int32_t layer) const;
  const SelectConfig& select_of(int32_t layer) const;
  const BlockConfig& blocks_of(int32_t layer) const;
};

// Errors: kNotFound, kDataError (names the file, the key and what is allowed).
TOKENSIEVE_API Result<Profile> load_profile(const std::string& path);
TOKENSIEVE_API Result<Profile> parse_profile(const std::string& json,
                                             const std::string& source_name);
TOKENSIEVE_API std::string profile_to_json(const Profile& profile);

// Error if the profile was made for another model: names each field that differs.
TOKENSIEVE_API Status check_fingerprint(const Profile& profile, const ModelFingerprint& model);

// For models that nobody has measured: the upper half of the layers, local fill, keep_ratio 0.2,
// one set per layer (docs/profile.md says why).
TOKENSIEVE_API Profile default_profile(const ModelFingerprint& model);

// What an engine knows about one attention call of one layer.
struct LayerCall {
  int32_t layer = -1;
  // Equal: the call holds the prompt from its start. Fewer queries: a later chunk.
  int64_t seqlen_q = 0;
  int64_t seqlen_kv = 0;
  bool plain_causal = true;  // no bias, window or other mask that selection does not know
};

struct LayerChoice {
  SelectConfig select;  // enabled = false: run dense, for `reason`
  // Estimated block masks, over the selected tokens or over all (enabled = false, kDisabled). None
  // in a call that the profile leaves alone, or that answers all queries from selected keys.
  BlockConfig blocks;
  DenseReason reason = DenseReason::kNone;
  Products products = Products::kAuto;  // the profile's, also where it leaves the call alone
};

// Whether a call runs sparse, and with which settings; engines add what only they can know. A plan
// may still decide for dense.
TOKENSIEVE_API LayerChoice choose(const Profile& profile, const LayerCall& call);

}  // namespace tokensieve
