#include "common/signals.h"

#include <unistd.h>

#include <csignal>

namespace tokensieve::cli {
namespace {

volatile std::sig_atomic_t g_stops_cleanly = 0;
volatile std::sig_atomic_t g_interrupted = 0;

void on_signal(int) {
  if (g_stops_cleanly == 0 || g_interrupted != 0) ::_exit(kExitInterrupted);
  g_interrupted = 1;
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

void stop_cleanly_on_interrupt() { g_stops_cleanly = 1; }

bool interrupted() { return g_interrupted != 0; }

}  // namespace tokensieve::cli
