#include "interrupt.h"

#include <csignal>

namespace nibble::cli {

namespace {

volatile std::sig_atomic_t stop_asked = 0;

extern "C" void on_interrupt(int signal_number) {
  stop_asked = 1;
  std::signal(signal_number, SIG_DFL);
}

}  // namespace

void install_interrupt_handler() {
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
}

bool interrupted() { return stop_asked != 0; }

}  // namespace nibble::cli
