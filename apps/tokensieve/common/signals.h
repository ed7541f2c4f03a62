// Ctrl-C (and SIGTERM): ends the program at once with exit code 130, unless the running command has
// said that it stops cleanly; then the second one ends it at once.
#pragma once

namespace tokensieve::cli {

inline constexpr int kExitInterrupted = 130;

void install_interrupt_handler();
// From now on whoever works asks interrupted(), stops and exits with kExitInterrupted.
void stop_cleanly_on_interrupt();
bool interrupted();

}  // namespace tokensieve::cli
