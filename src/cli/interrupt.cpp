#include "interrupt.h"

#include <semaphore.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <thread>

#include "core/pending.h"

namespace nibble::cli {

namespace {

volatile std::sig_atomic_t stop_asked = 0;
sem_t asked;
std::atomic<int> slow_to_stop = 0;

extern "C" void on_interrupt(int signal_number) {
  stop_asked = 1;
  std::signal(signal_number, SIG_DFL);
  (void)::sem_post(&asked);
}

/// Most work asks interrupted() many times a second. What does not, such as one long sum or a read from a slow disk,
/// ends here: in a thread of its own, since a signal's handler may neither list a folder nor take a lock.
void end_what_does_not_ask() {
  while (::sem_wait(&asked) != 0 && errno == EINTR) continue;
  do std::this_thread::sleep_for(std::chrono::milliseconds(800));
  while (slow_to_stop != 0);
  files::Pending::remove_all();
  std::fputs("nibble: interrupted\n", stderr);
  ::_exit(kInterruptedExit);
}

}  // namespace

SlowToStop::SlowToStop() { ++slow_to_stop; }
SlowToStop::~SlowToStop() { --slow_to_stop; }

void install_interrupt_handler() {
  if (::sem_init(&asked, 0, 0) != 0) return;
  try {
    std::thread(end_what_does_not_ask).detach();
  } catch (const std::exception&) {
    return;  // no thread: the first signal ends the process at once
  }
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
}

bool interrupted() { return stop_asked != 0; }

}  // namespace nibble::cli
