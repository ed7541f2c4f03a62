// `tokensieve verify DIR`: golden cases through the oracle and every backend, stage by stage.
#pragma once

#include <string>
#include <vector>

namespace tokensieve::verify {

struct VerifyOptions {
  std::string dir;                    // empty: $TOKENSIEVE_GOLDEN_DIR
  std::vector<std::string> backends;  // "ref", "cpu", "cpu/avx2", ...; empty: all
  bool json = false;                  // one object a line instead of a table
};

// Exit code: 0, 1 if a check missed its tolerance or a case is malformed, 2 for a wrong argument.
int run_verify(const VerifyOptions& options);

}  // namespace tokensieve::verify
