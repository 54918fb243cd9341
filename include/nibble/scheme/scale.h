// The type a scale is stored in, and what storing does to its value.
//
// Codes are always computed with the scale as stored, so that encode and decode agree whatever the type.
#pragma once

#include <cstdint>
#include <limits>

#include "nibble/core/float_types.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI {

enum class ScaleType : std::uint8_t { f32, f16, bf16 };

/// Bytes of one stored scale.
constexpr int scale_bytes(ScaleType type) { return type == ScaleType::f32 ? 4 : 2; }

/// `scale` (≥ 0, finite) as it reads back from storage, never below the smallest value that still divides: the least
/// normal float, or the least positive f16. That floor is what makes all-zero and denormal groups ordinary ones.
/// Infinity where the type cannot hold the scale; the caller turns that into an error.
NIBBLE_HD constexpr float stored_scale(float scale, ScaleType type) {
  constexpr float least_normal = std::numeric_limits<float>::min();
  constexpr float least_f16 = 0x1p-24f;
  switch (type) {
    case ScaleType::f16: {
      const auto rounded = static_cast<float>(f16(scale));
      return rounded < least_f16 ? least_f16 : rounded;
    }
    case ScaleType::bf16: {
      const auto rounded = static_cast<float>(bf16(scale));
      return rounded < least_normal ? least_normal : rounded;
    }
    case ScaleType::f32: break;
  }
  return scale < least_normal ? least_normal : scale;
}

}  // namespace nibble::inline NIBBLE_ABI
