// What every command shares: exit codes and how an error reaches the user.
#pragma once

#include "common/output.h"
#include "common/signals.h"
#include "tokensieve/status.h"

namespace tokensieve::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

// Prints the error and returns the exit code that it deserves.
inline int fail(const Status& status) {
  if (status.code() == StatusCode::kCancelled) {
    print_err("tokensieve: cancelled\n");
    return kExitInterrupted;
  }
  print_err("tokensieve: {}\n", status.message());
  return kExitFailure;
}

}  // namespace tokensieve::cli
