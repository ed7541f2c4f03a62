// What every command that runs a model starts with.
#pragma once

#include <optional>

#include "common/llama_session.h"
#include "common/plugin.h"

namespace tokensieve::cli {

struct Session {
  std::optional<Plugin> plugin;  // before the model: it leaves the process last
  LlamaModel model;
};

// Finds the model, starts llama.cpp, loads the plug-in if it is wanted, then the model. From then
// on the command has to stop cleanly on Ctrl-C.
Result<Session> start_session(const ModelOptions& options, bool verbose, bool with_plugin = true);

}  // namespace tokensieve::cli
