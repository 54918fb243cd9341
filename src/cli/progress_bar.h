// Progress of long work on standard error: a bar with the time left on a terminal, a plain line now and then elsewhere.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "nibble/core/progress.h"

namespace nibble::cli {

class ProgressBar {
 public:
  /// `title` stands before the bar. Nothing is shown for work that ends within a second,
  /// and nothing at all if `quiet`; Ctrl-C is heeded either way.
  explicit ProgressBar(std::string title, bool quiet = false);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// The callback to hand to the library: draws, and answers "stop" after Ctrl-C.
  [[nodiscard]] Progress callback();
  bool update(double fraction, std::string_view message);

 private:
  using Clock = std::chrono::steady_clock;
  void draw(double fraction, std::string_view message, double elapsed);

  std::string title_;
  bool terminal_;
  bool quiet_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_draw_ = start_;
};

}  // namespace nibble::cli
