// Integer schemes: value = (code − zero_point) · scale. Symmetric is the case of a constant zero point.
//
// Codes are unsigned, 0 … 2^B−1, in every scheme of this header: a symmetric code is the signed value plus 2^(B−1).
// One decoder therefore serves all of them. Encoding divides by the scale, clamps, then rounds half to even; no
// multiply feeds an add, so no compiler flag changes a result.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "nibble/core/portability.h"
#include "nibble/scheme/range.h"
#include "nibble/scheme/rounding.h"
#include "nibble/scheme/scale.h"

namespace nibble::inline NIBBLE_ABI {

/// What a group of affine codes shares.
struct AffineParams {
  float scale = 1;
  std::int32_t zero_point = 0;  ///< The code of 0; in 0 … 2^B−1 unless the range was kept raw.
  friend constexpr bool operator==(const AffineParams&, const AffineParams&) = default;
};

/// The code of x, in low … high. A NaN becomes `low`; quantizers refuse NaN before it gets here.
NIBBLE_HD constexpr std::uint8_t affine_encode(float x, AffineParams p, std::int32_t low, std::int32_t high) {
  const auto floor = static_cast<float>(low - p.zero_point);
  const auto ceiling = static_cast<float>(high - p.zero_point);
  float t = x / p.scale;
  t = t > floor ? t : floor;
  t = t < ceiling ? t : ceiling;
  return static_cast<std::uint8_t>(round_half_even(t) + p.zero_point);
}

NIBBLE_HD constexpr float affine_decode(std::uint8_t code, AffineParams p) {
  return static_cast<float>(static_cast<std::int32_t>(code) - p.zero_point) * p.scale;
}

/// Lowest code of a symmetric scheme; the highest is always 2^B−1. The signed integers are, with `narrow_range`,
/// −(2^(B−1)−1) … 2^(B−1)−1, scale = absmax/(2^(B−1)−1), which has both ends exact: the default at 8 bits. Without it
/// −2^(B−1) … 2^(B−1)−1, scale = absmax/((2^B−1)/2), as GPTQ and compressed-tensors define it: a finer step, and
/// +absmax is off by half of one; the default below 8 bits.
NIBBLE_HD constexpr std::int32_t symmetric_low(bool narrow_range) { return narrow_range ? 1 : 0; }

/// The largest magnitude that can be quantized: beyond it a code could decode to infinity, so the scale is made
/// infinite, which quantizers turn into an error.
inline constexpr float kMaxMagnitude = 0x1p126f;

/// Symmetric parameters for a range: zero_point = 2^(B−1).
NIBBLE_HD constexpr AffineParams fit_symmetric(Range r, int bits, bool narrow_range, ScaleType type) {
  if (r.absmax() > kMaxMagnitude) return {std::numeric_limits<float>::infinity(), 1 << (bits - 1)};
  const auto levels = static_cast<float>((1 << bits) - (narrow_range ? 2 : 1));
  return {stored_scale(r.absmax() / (levels / 2), type), 1 << (bits - 1)};
}

/// Asymmetric parameters. With `preserve_zero` the range is first extended to contain 0, which then decodes exactly and
/// the zero point fits B bits. Without it (the raw range) the step is finer where all values share a sign and the
/// zero point may be any integer up to ±2^22: the scale grows, if it must, to keep it there.
NIBBLE_HD constexpr AffineParams fit_asymmetric(Range r, int bits, bool preserve_zero, ScaleType type) {
  const std::int32_t top = (1 << bits) - 1;
  const auto levels = static_cast<float>(top);
  if (preserve_zero) r = {r.min < 0 ? r.min : 0.0f, r.max > 0 ? r.max : 0.0f};
  if (r.absmax() > kMaxMagnitude) return {std::numeric_limits<float>::infinity(), 0};
  float step = (r.max - r.min) / levels;
  if (!preserve_zero) {
    constexpr float most = 0x1p22f;
    const float least_step = r.absmax() / most;
    step = step > least_step ? step : least_step;
  }
  const float scale = stored_scale(step, type);
  const std::int32_t zero_point = round_half_even(-(r.min / scale));
  if (!preserve_zero) return {scale, zero_point};
  return {scale, zero_point < 0 ? 0 : zero_point > top ? top : zero_point};
}

/// Which grid a range is given: what the symmetric and the asymmetric schemes leave open, at run time.
struct AffineRule {
  int bits = 4;
  bool symmetric = true;
  bool narrow_range = false;  ///< Symmetric alone.
  bool preserve_zero = true;  ///< Asymmetric alone.
  ScaleType scale_type = ScaleType::f32;

  NIBBLE_HD constexpr std::int32_t lowest_code() const { return symmetric ? symmetric_low(narrow_range) : 0; }
  NIBBLE_HD constexpr std::int32_t highest_code() const { return (1 << bits) - 1; }
};

NIBBLE_HD constexpr AffineParams fit_affine(Range r, AffineRule rule) {
  return rule.symmetric ? fit_symmetric(r, rule.bits, rule.narrow_range, rule.scale_type)
                        : fit_asymmetric(r, rule.bits, rule.preserve_zero, rule.scale_type);
}

/// The symmetric scheme of B bits as a type.
template <int B, bool NarrowRange = B == 8>
struct Symmetric {
  static_assert(B >= 2 && B <= 8);
  using Params = AffineParams;
  static constexpr int bits = B;
  NIBBLE_HD static constexpr Params fit(Range r, ScaleType type = ScaleType::f32) {
    return fit_symmetric(r, B, NarrowRange, type);
  }
  NIBBLE_HD static constexpr Params fit(std::span<const float> values) { return fit(range_of(values)); }
  NIBBLE_HD static constexpr std::uint8_t encode(float x, Params p) {
    return affine_encode(x, p, symmetric_low(NarrowRange), (1 << B) - 1);
  }
  NIBBLE_HD static constexpr float decode(std::uint8_t code, Params p) { return affine_decode(code, p); }
};

/// The asymmetric scheme of B bits as a type.
template <int B, bool PreserveZero = true>
struct Asymmetric {
  static_assert(B >= 2 && B <= 8);
  using Params = AffineParams;
  static constexpr int bits = B;
  NIBBLE_HD static constexpr Params fit(Range r, ScaleType type = ScaleType::f32) {
    return fit_asymmetric(r, B, PreserveZero, type);
  }
  NIBBLE_HD static constexpr Params fit(std::span<const float> values) { return fit(range_of(values)); }
  NIBBLE_HD static constexpr std::uint8_t encode(float x, Params p) { return affine_encode(x, p, 0, (1 << B) - 1); }
  NIBBLE_HD static constexpr float decode(std::uint8_t code, Params p) { return affine_decode(code, p); }
};

}  // namespace nibble::inline NIBBLE_ABI
