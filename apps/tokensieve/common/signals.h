// Ctrl-C: the first one asks the running command to stop cleanly, the second one ends at once.
#pragma once

namespace tokensieve::cli {

inline constexpr int kExitInterrupted = 130;

void install_interrupt_handler();
bool interrupted();

}  // namespace tokensieve::cli
