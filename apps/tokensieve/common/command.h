// What every command shares: exit codes and how an error reaches the user.
#pragma once

#include <fmt/format.h>

#include <cstdio>

#include "common/signals.h"
#include "tokensieve/status.h"

namespace tokensieve::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

// Prints the error and returns the exit code that it deserves.
inline int fail(const Status& status) {
  if (status.code() == StatusCode::kCancelled) {
    fmt::print(stderr, "tokensieve: cancelled\n");
    return kExitInterrupted;
  }
  fmt::print(stderr, "tokensieve: {}\n", status.message());
  return kExitFailure;
}

}  // namespace tokensieve::cli
