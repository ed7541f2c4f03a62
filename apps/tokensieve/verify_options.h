// Options of `tokensieve verify`.
#pragma once

#include <CLI/CLI.hpp>

#include "verify/verify.h"

namespace tokensieve::cli {

void add_verify_options(CLI::App& command, verify::VerifyOptions& options);

}  // namespace tokensieve::cli
