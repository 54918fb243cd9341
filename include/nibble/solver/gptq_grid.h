// The grids that GPTQ rounds to, and its search for the clipping with the least error: the solvers on the CPU and on a
// device share these definitions.
#pragma once

#include <cstdint>
#include <limits>

#include "nibble/core/portability.h"
#include "nibble/core/power.h"
#include "nibble/core/rounded_product.h"
#include "nibble/scheme/affine.h"

namespace nibble::inline NIBBLE_ABI {

/// How a group's scale and zero point come from its range.
struct GridRule {
  int bits = 4;
  bool symmetric = true;
  bool reference = false;  ///< As reference_grid() has it, the scale in fp32 whatever scale_type is.
  ScaleType scale_type = ScaleType::f16;
};

/// The grid of IST-DASLab's GPTQ (quant.py, find_params): a symmetric range reaches below 0 only where a value does,
/// and the scale is not rounded to what is stored. An infinite scale where no grid holds the range.
NIBBLE_HD constexpr AffineParams reference_grid(Range r, int bits, bool symmetric) {
  float low = r.min < 0 ? r.min : 0.0f, high = r.max > 0 ? r.max : 0.0f;
  if (symmetric) {
    high = -low > high ? -low : high;
    if (low < 0) low = -high;
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  if ((-low > high ? -low : high) > kMaxMagnitude) return {std::numeric_limits<float>::infinity(), 0};
  const int top = (1 << bits) - 1;
  const float scale = stored_scale((high - low) / static_cast<float>(top), ScaleType::f32);
  return {scale, symmetric ? (top + 1) / 2 : round_half_even(-low / scale)};
}

NIBBLE_HD constexpr AffineParams grid_of(Range r, GridRule rule) {
  if (rule.reference) return reference_grid(r, rule.bits, rule.symmetric);
  return fit_affine(r, {rule.bits, rule.symmetric, /*narrow_range=*/false, true, rule.scale_type});
}

/// The search tries the range shrunk by 0 … 79 percent (the reference's "mse"); of equals, the first is taken.
inline constexpr int kShrinkings = 80;
NIBBLE_HD constexpr float shrinking(int step) { return 1 - static_cast<float>(step) / 100; }

/// x^2.4 for x ≥ 0.
NIBBLE_HD constexpr float power_2_4(float x, RoundedProduct<float> times = {}) {
  return positive_power(x, 2.4f, times);
}

/// |q − x|^2.4, q what x is rounded to with codes 0 … top: what the search adds up. `zero` is the zero point.
NIBBLE_HD constexpr float search_error(float x, float scale, float zero, float top, RoundedProduct<float> times = {}) {
  const float low = -zero, high = top - zero;
  float t = x / scale;
  t = t > low ? t : low;
  t = t < high ? t : high;
  t = (t + 12582912.0f) - 12582912.0f;  // half to even
  return power_2_4(magnitude(times(t, scale) - x), times);
}

}  // namespace nibble::inline NIBBLE_ABI
