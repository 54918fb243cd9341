// Activations as 24-bit fixed-point integers that share a power of two: how fp32 activations meet integer codes.
//
// A chunk of activations x (at most 256 columns, inside one group of the weights) becomes q = x·2^k rounded to an
// integer, with k the largest for which every |q| ≤ 0x7F7F7F. A sum of products is then exact, in integers:
//
//   Σ x·(code − zero_point)·scale  ≈  RN(Σ q·(code − zero_point)) · (scale·2^−k)
//
// and the only error made by q is half a unit: |x − q·2^−k| ≤ 2^−k/2 ≤ absmax/0x7F7F7F, the last bit of the largest
// value's own significand. Values of 16 bits (bf16, fp16) not 2^14 (2^11) times smaller than the largest of their chunk
// are held exactly. Sums of fp32 products lose about as much, by a rounding for each of them.
#pragma once

#include <bit>
#include <cstdint>

#include "nibble/core/portability.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI {

struct FixedPoint24 {
  /// The largest magnitude: three signed bytes in base 256 (0x7F each), or two signed 12-bit digits, hold it.
  static constexpr std::int32_t most = 0x7F7F7F;

  /// 2^k for values of at most `absmax`, which is finite. Not above 2^126, so that 2^−k is a normal number too.
  NIBBLE_HD static constexpr float factor(float absmax) {
    const auto exponent = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(absmax) >> 23);  // biased; absmax ≥ 0
    std::int32_t k = 22 + 127 - exponent;  // absmax·2^k in [2^22, 2^23)
    if (k > 126) return power_of_two(126);
    if (absmax * power_of_two(k) > static_cast<float>(most)) --k;
    return power_of_two(k);
  }
  /// 2^−k.
  NIBBLE_HD static constexpr float inverse(float factor) {
    return std::bit_cast<float>((254u << 23) - std::bit_cast<std::uint32_t>(factor));
  }
  NIBBLE_HD static constexpr std::int32_t encode(float x, float factor) { return round_half_even(x * factor); }

 private:
  NIBBLE_HD static constexpr float power_of_two(std::int32_t k) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(k + 127) << 23);
  }
};

}  // namespace nibble::inline NIBBLE_ABI
