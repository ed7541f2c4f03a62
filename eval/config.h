// Configurations: a method with its settings, and how it is named on the command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/chunks.h"
#include "eval/methods.h"
#include "eval/schema.h"
#include "tokensieve/profile.h"
#include "tokensieve/status.h"

namespace tokensieve::eval {

struct Config {
  std::string name;
  const Method* method = &dense_method();
  int32_t chunk = 0;           // tokens that are read at a time; 0: the whole prompt at once
  bool always_sparse = false;  // also where dense is predicted to be faster
  // A baseline does as much work as selection with the same keys would. False when the user named
  // the window or the number of tokens.
  bool equal_work = false;
  Fill beside_fill = Fill::kLocal;  // what `profile.select` had before the baseline's own fill
  int32_t beside_chunk = 0;         // how that selection is read
  int32_t filter_layer = 0;         // Prefill::kEvict: the layer that chooses
  Profile profile;                  // without selection only `products` counts

  // Whether the profile makes a prompt of so many tokens exactly dense.
  bool runs_as_dense(int64_t tokens) const;
};

Config dense_config(int32_t chunk = cli::kChunkUbatch);

// The chunk of a configuration that names none: `chunk` for ours if the method can read so, with
// its fill; llama.cpp's own for its own attention.
int32_t default_chunk(const Config& config, int32_t chunk);

// `method` with the settings that it has without any key.
Config make_config(const Method& method, const Profile& model_profile);
// What the keys are together; the library checks the selection itself.
Status check_config(const Config& config);
// As the header of a run file has it.
ConfigLine config_line(const Config& config);

// What a run compares by default, and a line of help for every method and key.
std::vector<std::string> default_configs();
std::string describe_configs();

// `specs` are "METHOD" or "METHOD:key=value,key=value". A numeric value may be a list,
// "keep=.1/.2": one configuration each. Dense is added if it is missing, and comes first: all are
// measured against it. `chunk` is for configurations that name none. Errors name the value and what
// is allowed.
Result<std::vector<Config>> parse_configs(const std::vector<std::string>& specs,
                                          const Profile& model_profile,
                                          int32_t chunk = cli::kChunkUbatch);

}  // namespace tokensieve::eval
