// Ctrl-C: the first asks running work to stop cleanly, and after 0.8 seconds ends a process that has not; no partial
// output is left either way. The second ends it at once.
#pragma once

namespace nibble::cli {

/// Exit status after a cancelled command: 128 + SIGINT, as shells expect.
constexpr int kInterruptedExit = 130;

/// While one lives, what runs needs longer than that to stop as it should, and says so: only the second Ctrl-C ends it.
class SlowToStop {
 public:
  SlowToStop();
  ~SlowToStop();
  SlowToStop(const SlowToStop&) = delete;
  SlowToStop& operator=(const SlowToStop&) = delete;
};

void install_interrupt_handler();
[[nodiscard]] bool interrupted();

}  // namespace nibble::cli
