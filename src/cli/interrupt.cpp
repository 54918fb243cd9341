#include "interrupt.h"

#include <sys/time.h>
#include <unistd.h>

#include <csignal>
#include <string_view>

namespace nibble::cli {

namespace {

volatile std::sig_atomic_t stop_asked = 0;

/// What may be called in a signal handler only: no destructors run, no streams are flushed.
extern "C" void on_time_over(int /*signal_number*/) {
  constexpr std::string_view kMessage =
      "nibble: interrupted before it could stop cleanly; a temporary file may remain beside the output\n";
  (void)!::write(STDERR_FILENO, kMessage.data(), kMessage.size());
  ::_exit(kInterruptedExit);
}

extern "C" void on_interrupt(int signal_number) {
  stop_asked = 1;
  std::signal(signal_number, SIG_DFL);
  // Most work asks interrupted() many times a second. What does not, such as a library that reads a huge file, ends
  // here.
  std::signal(SIGALRM, on_time_over);
  constexpr itimerval kPatience{{0, 0}, {0, 800'000}};
  (void)::setitimer(ITIMER_REAL, &kPatience, nullptr);
}

}  // namespace

void install_interrupt_handler() {
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
}

bool interrupted() { return stop_asked != 0; }

}  // namespace nibble::cli
