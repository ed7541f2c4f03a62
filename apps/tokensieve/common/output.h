// What the program says. A stream that cannot be written stops no work, which may have other
// results: main() asks at the end whether all of standard output was written.
#pragma once

#include <fmt/format.h>

#include "tokensieve/status.h"

namespace tokensieve::cli {

// Closed standard streams: what is written to them fails from here on, and does not end up in a
// file that was opened in their place.
void hold_standard_streams();

void write_out(fmt::string_view text);
// What was written to standard output before comes first, also where both are the same pipe.
void write_err(fmt::string_view text);

template <typename... Args>
void print_out(fmt::format_string<Args...> format, Args&&... args) {
  write_out(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void print_err(fmt::format_string<Args...> format, Args&&... args) {
  write_err(fmt::format(format, std::forward<Args>(args)...));
}

// Error: a part of standard output was not written.
Status flush_output();

}  // namespace tokensieve::cli
