// The range of a group of values: all that a scheme needs to know to fit its parameters.
#pragma once

#include <span>

#include "nibble/core/portability.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI {

/// Smallest and largest of some finite values. Zeros are stored as +0, so the order of a scan never shows.
struct Range {
  float min = 0;
  float max = 0;
  NIBBLE_HD constexpr float absmax() const {
    const float low = magnitude(min), high = magnitude(max);
    return low > high ? low : high;
  }
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

/// The range of at least one value.
NIBBLE_HD constexpr Range range_of(std::span<const float> values) {
  Range r{values[0], values[0]};
  for (float v : values) {
    if (v < r.min) r.min = v;
    if (v > r.max) r.max = v;
  }
  return {r.min == 0 ? 0.0f : r.min, r.max == 0 ? 0.0f : r.max};
}

}  // namespace nibble::inline NIBBLE_ABI
