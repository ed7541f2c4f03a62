#include "common/llama_log.h"

#include <llama.h>

#include <cstdio>
#include <mutex>

namespace tokensieve::cli {
namespace {

// llama.cpp has one log per process, and may call it from several threads.
struct LogState {
  std::mutex mutex;
  bool verbose = false;
  ggml_log_level last = GGML_LOG_LEVEL_NONE;
  std::string errors;
};

LogState& log_state() {
  static LogState state;
  return state;
}

void on_log(ggml_log_level level, const char* text, void*) {
  LogState& state = log_state();
  const std::lock_guard lock(state.mutex);
  if (level == GGML_LOG_LEVEL_CONT) level = state.last;
  state.last = level;
  if (state.verbose) std::fputs(text, stderr);
  if (level != GGML_LOG_LEVEL_ERROR) return;
  for (const char* c = text; *c != '\0'; ++c) {
    if (*c != '\n') {
      state.errors += *c;
    } else if (!state.errors.empty() && !state.errors.ends_with("; ")) {
      state.errors += "; ";
    }
  }
}

}  // namespace

void install_llama_log(bool verbose) {
  log_state().verbose = verbose;
  llama_log_set(on_log, nullptr);
}

void clear_llama_errors() {
  const std::lock_guard lock(log_state().mutex);
  log_state().errors.clear();
}

std::string llama_errors() {
  const std::lock_guard lock(log_state().mutex);
  std::string errors = log_state().errors;
  if (errors.ends_with("; ")) errors.resize(errors.size() - 2);
  // The first line says what happened; later ones repeat it at every level of the loader.
  if (const size_t end = errors.find("; "); end != std::string::npos) errors.resize(end);
  return errors.empty() ? "no reason given" : errors;
}

}  // namespace tokensieve::cli
