// What the environment and tokensieve_ggml_configure set: mode, profile, thresholds.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "tokensieve/tokensieve.h"
#include "tokensieve_ggml.h"

namespace tokensieve::ggml {

using Mode = tokensieve_ggml_mode;

struct Settings {
  Mode mode = TOKENSIEVE_GGML_SPARSE;
  std::optional<Profile> profile;
  std::string profile_name = "none";
  int64_t min_queries = kMinQueries;  // shorter nodes stay on the CPU backend
  Backend backend = Backend::kCpu;
  Products products = Products::kAuto;  // auto: the profile's
  bool disabled = false;     // report no device at all
  bool print_stats = false;  // print the table at exit
  bool always_sparse = false;  // DensePolicy::kNever
  bool whole_prompts = false;  // a ubatch of all tokens is a whole prompt
  std::string old_mode;        // the name in TOKENSIEVE_MODE, if it is one that modes had before
  tokensieve_ggml_select_fn select = nullptr;
  void* select_user = nullptr;

  // llama.cpp probes flash attention with one token per sequence, at most 256 sequences, and
  // switches it off if the probe does not stay on the CPU backend: 257 is the least safe value.
  static constexpr int64_t kMinQueries = 257;
};

const char* mode_name(Mode mode);
// Of every run, also of those that are dense; a profile counts where it is for the model.
Products products_of(const Settings& settings);
// The one line about a mode's old name.
void log_old_mode(const char* name);

// Reads TOKENSIEVE_*. A wrong value is an error that names it; the settings are then the default
// with no profile, i.e. dense.
Status settings_from_environment(Settings& settings);

// Process-wide, shared by all contexts: a graph works on the snapshot that it took at its start.
std::shared_ptr<const Settings> current_settings();
void set_current_settings(Settings settings);

// Status of the public control function (tokensieve_ggml.h).
Status apply_config(const tokensieve_ggml_config* config);

}  // namespace tokensieve::ggml
