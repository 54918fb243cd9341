// The most memory this process has held, measured from a moment of one's choosing.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <string>

#include "tests/support/sanitized.h"

namespace nibble::testing_support {

inline std::size_t status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field)) return std::strtoull(line.c_str() + field.size(), nullptr, 10) * 1024;
  return 0;
}

/// Starts the peak anew at what is held now.
inline void reset_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }
inline std::size_t peak_bytes() { return status_bytes("VmHWM:"); }
inline std::size_t held_bytes() { return status_bytes("VmRSS:"); }

constexpr bool memory_is_measurable = !sanitized;  // shadow memory is counted too

}  // namespace nibble::testing_support
