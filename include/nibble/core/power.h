// Powers of positive floats from arithmetic that compilers vectorise and that is the same everywhere. Products are
// rounded (core/rounded_product.h), so that it is the same function in every unit.
#pragma once

#include <bit>
#include <cstdint>

#include "nibble/core/abi.h"
#include "nibble/core/portability.h"
#include "nibble/core/rounded_product.h"

namespace nibble::inline NIBBLE_ABI {

/// x^exponent for x ≥ 0 and |exponent| ≤ 8, to a few parts in 10^7 where the result lies between 2^−126 and 2^127;
/// beyond it is about the nearer of the two. Of x = 0, and of one below the normal floats, the power of a number near
/// 2^−127.
NIBBLE_HD constexpr float positive_power(float x, float exponent, RoundedProduct<float> times = {}) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto shifted = static_cast<std::int32_t>(bits - 0x3f3504f3u);  // √½: the mantissa is centred around 1
  const std::int32_t power_of_2 = shifted >> 23;
  const float m = std::bit_cast<float>(static_cast<std::uint32_t>((shifted & 0x7fffff) + 0x3f3504f3));
  const float s = (m - 1) / (m + 1), s2 = times(s, s);  // ln m = 2·artanh s
  const float log2 =
      static_cast<float>(power_of_2) +
      times(s,
            2.885390082f +
                times(s2, 0.961796694f + times(s2, 0.577078016f + times(s2, 0.412198583f + times(s2, 0.320598898f)))));
  float y = times(log2, exponent);
  y = y > -126.0f ? y : -126.0f;
  y = y < 127.0f ? y : 127.0f;
  const float whole = (y + 12582912.0f) - 12582912.0f;
  const float f = y - whole;
  const float low_terms = 0.00961812911f + times(f, 0.00133335581f + times(f, 1.54035304e-4f));
  const float power =
      1 + times(f, 0.693147181f + times(f, 0.240226507f + times(f, 0.0555041087f + times(f, low_terms))));
  return times(power, std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<std::int32_t>(whole) + 127) << 23));
}

}  // namespace nibble::inline NIBBLE_ABI
