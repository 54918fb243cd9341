// Ctrl-C: the first asks running work to stop cleanly, so that no partial output is left, and ends the process if it
// has not within 0.8 seconds; the second ends it at once.
#pragma once

namespace nibble::cli {

/// Exit status after a cancelled command: 128 + SIGINT, as shells expect.
constexpr int kInterruptedExit = 130;

void install_interrupt_handler();
[[nodiscard]] bool interrupted();

}  // namespace nibble::cli
