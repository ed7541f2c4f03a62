// The llama.cpp plug-in as this program drives it: load, set the mode, read what layers did.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tokensieve/profile.h"
#include "tokensieve/status.h"
#include "tokensieve_ggml.h"

namespace tokensieve::cli {

struct LayerStats {
  int32_t layer = 0;
  int64_t sparse_nodes = 0;
  int64_t never_sparse_nodes = 0;  // of windows and the like
  double keep_ratio = 1;
  double work = 1;
  double attention_ms = 0;
  double block_density = 1;
  std::string dense_reason;
  Products products = Products::kExact;
  std::string products_reason;  // why some run was exact although others were asked for

  bool ran_sparse() const { return sparse_nodes > 0; }
};

// Who sees what sparse layers keep, and what the plug-in cannot know.
struct PluginHook {
  tokensieve_ggml_select_fn select = nullptr;  // null: nobody is asked
  void* user = nullptr;
  bool always_sparse = false;  // also where dense is predicted to be faster
  bool whole_prompts = false;  // prompts are read in one ubatch: zero fill may drop queries
  Products products = Products::kAuto;  // of all calls; auto: the profile's
};

// What the layers' products were: "exact", "split", "split in 20 layers, exact in 10 (attention is
// not plainly causal)".
std::string products_text(const std::vector<LayerStats>& layers);

class Plugin {
 public:
  // Loads it into this process's ggml. Error: missing, wrong llama.cpp, too old.
  static Result<Plugin> load();

  const std::string& path() const { return path_; }
  // For contexts made from now on. `hook` sees what sparse layers keep until the next call.
  Status configure(tokensieve_ggml_mode mode, const Profile* profile, const PluginHook& hook = {});
  void reset_stats() { reset_stats_(); }
  std::vector<LayerStats> stats() const;

 private:
  Plugin() = default;

  std::string path_;
  tokensieve_ggml_configure_fn configure_ = nullptr;
  tokensieve_ggml_stats_fn stats_ = nullptr;
  tokensieve_ggml_reset_stats_fn reset_stats_ = nullptr;
};

}  // namespace tokensieve::cli
