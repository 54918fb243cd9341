// Cancellation inside long loops over text.
#pragma once

#include <cstdint>

#include "nibble/core/progress.h"

namespace nibble::inline NIBBLE_ABI::text {

/// Asks the caller's Progress now and then whether to go on. One for each call, not shared by threads.
class Watch {
 public:
  explicit Watch(const Progress& progress) : progress_(progress) {}
  /// For each small step; every few thousand ask the caller. Error{cancelled}.
  void tick() {
    if ((++ticks_ & 0xfff) == 0) ask();
  }
  /// Asks now.
  void ask() const { report(progress_, 0, "turning text into tokens"); }
  /// The same without the exception, for where a C library calls.
  [[nodiscard]] bool goes_on() const { return !progress_ || progress_(0, "turning text into tokens"); }

 private:
  const Progress& progress_;
  std::uint64_t ticks_ = 0;
};

}  // namespace nibble::inline NIBBLE_ABI::text
