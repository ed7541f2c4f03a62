// `tokensieve verify` alone, for builds without the CLI: verify_tool DIR [--json] [BACKEND...].
#include <cstring>

#include "tokensieve/verify.h"

int main(int argc, char** argv) {
  tokensieve::cli::VerifyOptions options;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) {
      options.json = true;
    } else if (options.dir.empty()) {
      options.dir = argv[i];
    } else {
      options.backends.push_back(argv[i]);
    }
  }
  return tokensieve::cli::run_verify(options);
}
