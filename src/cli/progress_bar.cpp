#include "progress_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "interrupt.h"
#include "nibble/core/printable.h"

namespace nibble::cli {

namespace {

std::string duration(double seconds) {
  const auto whole = std::lround(seconds);
  if (whole >= 3600) return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
  if (whole >= 60) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}s", whole);
}

/// As much of a message as fits: 40 bytes, but no half of a character.
std::string beginning(std::string_view message) {
  std::string out = printable(message);
  std::size_t length = std::min<std::size_t>(out.size(), 40);
  while (length < out.size() && (static_cast<unsigned char>(out[length]) & 0xc0) == 0x80) --length;
  out.resize(length);
  return out;
}

}  // namespace

ProgressBar::ProgressBar(std::string title, bool quiet)
    : title_(std::move(title)), terminal_(isatty(STDERR_FILENO) == 1), quiet_(quiet) {}

ProgressBar::~ProgressBar() {
  if (terminal_ && drawn_) fmt::print(stderr, "\r\x1b[K");
}

Progress ProgressBar::callback() {
  return [this](double fraction, std::string_view message) { return update(fraction, message); };
}

bool ProgressBar::update(double fraction, std::string_view message) {
  using seconds = std::chrono::duration<double>;
  const auto now = Clock::now();
  const double elapsed = seconds(now - start_).count();
  const double since = seconds(now - last_draw_).count();
  if (!quiet_ && elapsed > 1 && since > (terminal_ ? 0.1 : 10.0)) {
    last_draw_ = now;
    draw(std::clamp(fraction, 0.0, 1.0), message, elapsed);
  }
  return !interrupted();
}

void ProgressBar::draw(double fraction, std::string_view message, double elapsed) {
  const std::string left = fraction > 0.005 ? duration(elapsed / fraction - elapsed) + " left" : "";
  if (!terminal_) {
    fmt::print(stderr, "{}: {:3.0f} %{}{}, {}\n", title_, 100 * fraction, left.empty() ? "" : ", ", left,
               printable(message));
    return;
  }
  constexpr int width = 28;
  const int full = static_cast<int>(fraction * width);
  std::string bar;
  for (int i = 0; i < width; ++i) bar += i < full ? "█" : "░";
  fmt::print(stderr, "\r{} {} {:3.0f} %  {}  {}\x1b[K", title_, bar, 100 * fraction, left, beginning(message));
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace nibble::cli
