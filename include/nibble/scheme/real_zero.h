// Integer codes whose zero point is a real number: value = (code − zero) · scale, as HQQ stores groups (Badri & Shaji,
// "Half-Quadratic Quantization of Large Machine Learning Models", 2023; the library's scale and zero are these).
//
// The grid need not contain 0, so it can lie wherever the values of the group do. That costs a number of the scale's
// width for each group, where scheme/affine.h stores a zero point in the bits of a code, and 0 then decodes to a small
// number. Encoding divides by the scale, adds the zero point, clamps, then rounds half to even; no multiply feeds an
// add, so no compiler flag changes a result.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "nibble/core/portability.h"
#include "nibble/scheme/affine.h"
#include "nibble/scheme/range.h"
#include "nibble/scheme/rounding.h"
#include "nibble/scheme/scale.h"

namespace nibble::inline NIBBLE_ABI {

/// What a group of such codes shares, both as their type stores them.
struct RealZeroParams {
  float scale = 1;
  float zero = 0;  ///< The code, a real number, that would decode to 0. Any size and sign.
  friend constexpr bool operator==(const RealZeroParams&, const RealZeroParams&) = default;
};

/// A zero point as it reads back from storage in the type of the scales. Infinite where the type cannot hold it.
NIBBLE_HD constexpr float stored_zero(float zero, ScaleType type) {
  return visit_scale(type, [&]<class T>(T) { return static_cast<float>(T(zero)); });
}

/// The code of x, in 0 … top. A NaN becomes 0; quantizers refuse NaN before it gets here.
NIBBLE_HD constexpr std::uint8_t real_zero_encode(float x, RealZeroParams p, std::int32_t top) {
  const auto highest = static_cast<float>(top);
  float t = x / p.scale + p.zero;
  t = t > 0 ? t : 0;
  t = t < highest ? t : highest;
  return static_cast<std::uint8_t>(round_half_even(t));
}

NIBBLE_HD constexpr float real_zero_decode(std::uint8_t code, RealZeroParams p) {
  return (static_cast<float>(code) - p.zero) * p.scale;
}

/// Parameters for a range, which is not extended to hold 0: its ends are the outermost codes, but for the rounding of
/// scale and zero point to `type`. The scale grows, if it must, to keep the zero point within ±2^22 (f32), ±2^10 (f16)
/// or ±2^7 (bf16), where the type still tells zero points half a step apart. An infinite scale where none fits.
NIBBLE_HD constexpr RealZeroParams fit_real_zero(Range r, int bits, ScaleType type) {
  const auto levels = static_cast<float>((1 << bits) - 1);
  if (r.absmax() > kMaxMagnitude) return {std::numeric_limits<float>::infinity(), 0};
  const float most = type == ScaleType::f32 ? 0x1p22f : type == ScaleType::f16 ? 0x1p10f : 0x1p7f;
  const float step = (r.max - r.min) / levels, least_step = r.absmax() / most;
  const float scale = stored_scale(step > least_step ? step : least_step, type);
  return {scale, stored_zero(-(r.min / scale), type)};
}

/// The scheme of B bits as a type.
template <int B>
struct RealZero {
  static_assert(B >= 2 && B <= 8);
  using Params = RealZeroParams;
  static constexpr int bits = B;
  NIBBLE_HD static constexpr Params fit(Range r, ScaleType type = ScaleType::f32) { return fit_real_zero(r, B, type); }
  NIBBLE_HD static constexpr Params fit(std::span<const float> values) { return fit(range_of(values)); }
  NIBBLE_HD static constexpr std::uint8_t encode(float x, Params p) { return real_zero_encode(x, p, (1 << B) - 1); }
  NIBBLE_HD static constexpr float decode(std::uint8_t code, Params p) { return real_zero_decode(code, p); }
};

}  // namespace nibble::inline NIBBLE_ABI
