// Configurations: which attention an evaluation compares, and how it is named on the command line.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tokensieve/profile.h"
#include "tokensieve/status.h"

namespace tokensieve::cli::eval {

// docs/evaluation.md, "Configurations", says what each one does and which paper it follows.
enum class Kind {
  kStock,        // llama.cpp's own attention
  kDense,        // ours, without selection: the yardstick
  kSparse,       // selection by a profile
  kNone,         // sinks, a wider window and dense last rows: no selection
  kRandom,       // the profile's sets, filled at random
  kRecent,       // sinks and the newest tokens, all others forgotten
  kEvict,        // one layer chooses; the short prompt is read again without the rest
  kOnce,         // the first sparse layer chooses for all deeper ones
  kDraft,        // sets seen in a dense run of the same model: a bound
};
const char* kind_name(Kind kind);
inline bool selects(Kind kind) { return kind != Kind::kStock && kind != Kind::kDense; }

struct Config {
  std::string name;
  Kind kind = Kind::kSparse;
  bool chunk = false;          // feed the prompt in chunks instead of at once
  bool always_sparse = false;  // also where dense is predicted to be faster
  // A baseline does as much work as selection with the same keys would: kNone gets a wider window,
  // the others more tokens. False when the user named a window or a number of tokens.
  bool equal_work = false;
  Fill beside_fill = Fill::kLocal;  // what `profile.select` had before the baseline's own fill
  int32_t filter_layer = 0;    // kEvict: the layer that chooses
  Profile profile;             // empty for stock and dense
  std::string note;

  bool selects() const { return eval::selects(kind); }
};

// What a run compares by default, and a line of help for every preset.
std::vector<std::string> default_configs();
std::string describe_presets();

// `specs` are "PRESET" or "PRESET:key=value,key=value". A numeric value may be a list, "keep=.1/.2":
// one configuration each. Dense is added if it is missing: everything is measured against it.
// Errors name the value and what is allowed.
Result<std::vector<Config>> parse_configs(const std::vector<std::string>& specs,
                                          const Profile& model_profile);

nlohmann::ordered_json config_json(const Config& config);

// (query, key) pairs of a sparse layer that reads a whole prompt, relative to the causal ones, when
// `kept` of the `tokens` are kept, evenly spread.
double selection_work(const SelectConfig& select, double kept, double tokens);

// The work that a baseline is given in a sparse layer: the mean over those of its profile.
double beside_work(const Config& config, int64_t tokens);

// The window of `none` with these last rows and sinks, and the prefix tokens of `select`, that make
// so much work on `tokens`.
int32_t equal_work_window(const SelectConfig& select, double work, int64_t tokens);
int64_t equal_work_count(const SelectConfig& select, double work, int64_t tokens);

}  // namespace tokensieve::cli::eval
