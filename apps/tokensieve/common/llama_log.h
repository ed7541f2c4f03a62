// libllama's log: quiet unless asked for, but its errors are kept for our own messages.
#pragma once

#include <string>

namespace tokensieve::cli {

// verbose: everything goes to stderr.
void install_llama_log(bool verbose);
void clear_llama_errors();
// The last error lines since clear_llama_errors, in one line; "no reason given" if none.
std::string llama_errors();

}  // namespace tokensieve::cli
