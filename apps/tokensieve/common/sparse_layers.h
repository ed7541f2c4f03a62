// Which layers of a model can run sparse at all. Sliding windows, chunked attention, softcaps and
// the like never do, and recurrent layers have no attention: what such layers keep is no choice.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/llama_session.h"
#include "common/plugin.h"
#include "tokensieve/profile.h"

namespace tokensieve::cli {

struct SparseLayers {
  std::vector<int32_t> layers;  // that can; ascending, without 0
  std::map<std::string, std::vector<int32_t>> dense;  // the others but 0, by the reason
  int32_t num_layers = 0;  // of the model
};

// Seen in one short dense run, which is longer than the model's window. Error: none can.
Result<SparseLayers> find_sparse_layers(const LlamaModel& model, Plugin& plugin);

// "layers 1-4,6-10: mask is not plain causal"; empty if all can.
std::string always_dense(const SparseLayers& layers);

// Takes the others out of a profile.
void keep_only(const SparseLayers& layers, Profile& profile);

}  // namespace tokensieve::cli
