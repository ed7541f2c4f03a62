// A command as run files keep it.
#pragma once

#include <span>
#include <string>

namespace tokensieve::eval {

// As typed, for the report, but of absolute paths only the last part: run files are published, and
// nobody wants to know where a home folder is.
std::string command_text(std::span<const std::string> words);
// The last part of an absolute path; other text as it is.
std::string without_folder(const std::string& text);

}  // namespace tokensieve::eval
