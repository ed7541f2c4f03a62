// Reading documents and writing results without leaving half of them behind.
#pragma once

#include <string>
#include <string_view>

#include "tokensieve/status.h"

namespace tokensieve::cli {

// Byte offset of the first byte that is not valid UTF-8 (or is NUL), or npos.
size_t first_invalid_utf8(std::string_view text);

// A whole text file ("-": standard input) without its byte order mark. Errors: missing, a folder,
// empty, not UTF-8 text.
Result<std::string> read_text(const std::string& path);

// Writes a temporary file beside `path`, then renames it: `path` is old or complete. Devices and
// pipes are written to; links are followed.
Status write_atomically(const std::string& path, const std::string& content);

// Whether write_atomically could begin now, for commands that measure first.
Status check_writable(const std::string& path);

}  // namespace tokensieve::cli
