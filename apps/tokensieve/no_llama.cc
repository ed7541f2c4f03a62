// The llama.cpp commands of a build without llama.cpp: they say how to get it.
#include "ask.h"
#include "common/command.h"
#include "eval_command.h"
#include "tune_command.h"
#include "profile_command.h"

namespace tokensieve::cli {
namespace {

int needs_llama(const char* command) {
  return fail(Status::error(
      StatusCode::kUnsupported,
      "`%s` needs llama.cpp, and this build has none; `make build` fetches and builds it, or "
      "configure with -DTOKENSIEVE_LLAMA=ON -DTOKENSIEVE_LLAMA_DIR=... "
      "-DTOKENSIEVE_LLAMA_BUILD=...",
      command));
}

}  // namespace

int run_ask(const AskOptions&) { return needs_llama("ask"); }
int run_eval(const EvalOptions&) { return needs_llama("eval"); }
int run_tune(const TuneOptions&) { return needs_llama("tune"); }
int run_profile(const ProfileOptions&) { return needs_llama("profile"); }

}  // namespace tokensieve::cli
