// The row arithmetic of LLM.int8() (Dettmers et al. 2022), as bitsandbytes stores it: the raw absmax of the row, not
// a scale. Canonical codes are unsigned (signed + 128), like those of every integer scheme.
#pragma once

#include <cstdint>
#include <span>

#include "nibble/core/portability.h"
#include "nibble/scheme/range.h"

namespace nibble::inline NIBBLE_ABI {

struct LlmInt8 {
  struct Params {
    float absmax = 0;
    friend constexpr bool operator==(const Params&, const Params&) = default;
  };
  static constexpr int bits = 8;
  static constexpr std::int32_t zero_point = 128;
  /// 1/127 in float: what a decoded code·absmax is multiplied by.
  static constexpr float inverse_127 = 1.0f / 127.0f;

  /// What values are multiplied by; 0 for an all-zero row. A denormal absmax is raised to the least normal float by
  /// fit(), which keeps this finite.
  NIBBLE_HD static constexpr float multiplier(float absmax) { return absmax == 0 ? 0.0f : 127.0f / absmax; }
  NIBBLE_HD static constexpr Params fit(Range r) {
    constexpr float least = 0x1p-120f;  // 127/least is finite
    const float absmax = r.absmax();
    return {absmax == 0 ? 0.0f : absmax < least ? least : absmax};
  }
  NIBBLE_HD static constexpr Params fit(std::span<const float> values) { return fit(range_of(values)); }
  NIBBLE_HD static constexpr std::uint8_t encode_scaled(float x, float factor) {
    float t = x * factor;
    t = t > -127.0f ? t : -127.0f;
    t = t < 127.0f ? t : 127.0f;
    return static_cast<std::uint8_t>(round_half_even(t) + zero_point);
  }
  NIBBLE_HD static constexpr std::uint8_t encode(float x, Params p) { return encode_scaled(x, multiplier(p.absmax)); }
  NIBBLE_HD static constexpr float decode(std::uint8_t code, Params p) {
    return static_cast<float>(static_cast<std::int32_t>(code) - zero_point) * (p.absmax * inverse_127);
  }
};

}  // namespace nibble::inline NIBBLE_ABI
