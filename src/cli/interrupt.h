// Ctrl-C: the first asks running work to stop cleanly, so that no partial output is left; the second ends the process.
#pragma once

namespace nibble::cli {

/// Exit status after a cancelled command: 128 + SIGINT, as shells expect.
constexpr int kInterruptedExit = 130;

void install_interrupt_handler();
[[nodiscard]] bool interrupted();

}  // namespace nibble::cli
