// What the elements of a group share, from a spec: fitted in one place and stored in one place, for the backends on CPU
// and device, the solvers, and whatever else makes a QuantizedMatrix.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/matrix/quant_spec.h"

namespace nibble::inline NIBBLE_ABI {

/// How an affine spec makes a grid of a range.
NIBBLE_HD constexpr AffineRule affine_rule(const QuantSpec& s) {
  return {s.bits, s.scheme == SchemeKind::symmetric, s.narrow_range, s.preserve_zero, s.scale_type};
}

/// The parameters of a group with this range: scale and zero point of an affine scheme; of all others the absmax, as
/// `scale`, and zero point 0. An infinite scale where none fits its type. (Schemes that are fitted to more than a range
/// say so: SchemeEntry::quantize_group. Real zero points have fit_real_zero.)
NIBBLE_HD constexpr AffineParams fit_params(const QuantSpec& s, Range r) {
  if (s.is_affine()) return fit_affine(r, affine_rule(s));
  if (s.scheme == SchemeKind::llm_int8) return {LlmInt8::fit(r).absmax, 0};
  return {stored_absmax(r.absmax()), 0};
}

/// Writes what fit_params gave for a group where a QuantizedMatrix of this spec has it (matrix/quantized_matrix.h).
/// `zero_points` may be null where the spec stores none. Double-quantized absmax values are not stored one by one.
NIBBLE_HD inline void store_params(const QuantSpec& s, void* scales, void* zero_points, std::size_t group,
                                   AffineParams p) {
  store_scale(s.scale_type, scales, group, p.scale);
  if (!s.has_zero_points()) return;
  if (s.preserve_zero) static_cast<std::uint8_t*>(zero_points)[group] = static_cast<std::uint8_t>(p.zero_point);
  else static_cast<std::int32_t*>(zero_points)[group] = p.zero_point;
}

/// The same of real zero points.
NIBBLE_HD inline void store_params(const QuantSpec& s, void* scales, void* zero_points, std::size_t group,
                                   RealZeroParams p) {
  store_scale(s.scale_type, scales, group, p.scale);
  store_scale(s.scale_type, zero_points, group, p.zero);
}

}  // namespace nibble::inline NIBBLE_ABI
