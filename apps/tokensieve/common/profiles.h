// Which layer profile a model gets.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tokensieve/profile.h"
#include "tokensieve/status.h"

namespace tokensieve::cli {

struct ChosenProfile {
  Profile profile;
  std::string source;  // the file, or what stands in for one
};

// Every shipped profile, by file name; a name in an earlier share folder hides later ones.
std::vector<std::filesystem::path> shipped_profiles();

// A file or the name of a shipped profile. Error: missing or malformed.
Result<ChosenProfile> load_named_profile(const std::string& requested);

// `requested` (a file or the name of a shipped profile) if given, else the shipped one called
// `model_name`, else the first shipped one with the model's fingerprint, else default_profile.
// Error: a requested profile that is missing, malformed or made for another model.
Result<ChosenProfile> choose_profile(const std::string& requested, const std::string& model_name,
                                     const ModelFingerprint& model);

// Gives all layers these block masks.
void set_blocks(Profile& profile, const BlockConfig& blocks);

// The paper's: zero fill, a set per head, tau 0.005.
SelectConfig paper_select();

// Layers first..last of text such as "2-29" or "14,15,20-37"; layer 0 is never sparse.
Result<std::vector<int32_t>> parse_layers(const std::string& text, int32_t num_layers);
// The other way round.
std::string format_layers(const std::vector<int32_t>& layers);

}  // namespace tokensieve::cli
