// Half precision, bfloat16 and the 8-bit floats of checkpoints: storage types with explicit conversions.
//
// They hold bits and convert; arithmetic happens in float. Every conversion from float rounds to nearest, ties to
// even, keeps subnormals and the sign of zero, and keeps NaN a NaN.
// Sources: IEEE 754-2019 (binary16); OCP 8-bit Floating Point Specification 1.0 (E4M3 without infinities, E5M2).
#pragma once

#include <bit>
#include <cstdint>

#include "nibble/core/abi.h"
#include "nibble/core/portability.h"
#include "nibble/core/strict_math.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

/// Shifts `value` right and rounds the lost bits to nearest even. 0 < shift < 32.
NIBBLE_HD constexpr std::uint32_t shift_right_round_even(std::uint32_t value, int shift) {
  const std::uint32_t half = 1u << (shift - 1);
  const std::uint32_t odd = (value >> shift) & 1u;
  return (value + (half - 1u) + odd) >> shift;
}

/// Decodes a small float of `exponent_bits` and `mantissa_bits` whose subnormals and normals follow IEEE 754; the
/// caller has dealt with infinity and NaN. `bits` carries no sign.
NIBBLE_HD constexpr float decode_small_float(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const std::uint32_t mantissa = bits & ((1u << mantissa_bits) - 1u);
  const std::uint32_t exponent = bits >> mantissa_bits;
  if (exponent == 0) {  // mantissa · 2^(1 − bias − mantissa_bits): the product is exact
    const auto unit = static_cast<std::uint32_t>(127 + 1 - bias - mantissa_bits) << 23;
    return static_cast<float>(mantissa) * std::bit_cast<float>(unit);
  }
  const std::uint32_t wide =
      ((exponent + 127u - static_cast<std::uint32_t>(bias)) << 23) | (mantissa << (23 - mantissa_bits));
  return std::bit_cast<float>(wide);
}

}  // namespace detail

/// IEEE 754 binary16: 1 sign, 5 exponent, 10 mantissa bits. Finite up to 65504.
struct f16 {
  std::uint16_t bits = 0;

  f16() = default;
  NIBBLE_HD constexpr explicit f16(float value) : bits(encode(value)) {}
  NIBBLE_HD static constexpr f16 from_bits(std::uint16_t raw) {
    f16 out;
    out.bits = raw;
    return out;
  }
  NIBBLE_HD constexpr explicit operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(detail::decode_small_float(magnitude, 5, 10)));
  }
  friend constexpr bool operator==(f16, f16) = default;  // of the bits

 private:
  NIBBLE_HD static constexpr std::uint16_t encode(float value) {
    const auto wide = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (wide >> 16) & 0x8000u;
    const std::uint32_t magnitude = wide & 0x7fffffffu;
    std::uint32_t out = 0;
    if (magnitude > 0x7f800000u) {
      out = 0x7e00u | ((magnitude >> 13) & 0x1ffu);  // quiet, upper payload kept
    } else if (magnitude >= 0x477ff000u) {           // 65520 and above round to infinity
      out = 0x7c00u;
    } else if (magnitude >= 0x38800000u) {  // normal; a carry out of the mantissa bumps the exponent, as it should
      out = detail::shift_right_round_even(magnitude - 0x38000000u, 13);
    } else if (magnitude >= 0x33000000u) {  // subnormal: the implicit bit becomes explicit
      const int shift = 126 - static_cast<int>(magnitude >> 23);
      out = detail::shift_right_round_even((magnitude & 0x7fffffu) | 0x800000u, shift);
    }
    return static_cast<std::uint16_t>(sign | out);
  }
};

/// bfloat16: the upper half of a binary32. 1 sign, 8 exponent, 7 mantissa bits.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  NIBBLE_HD constexpr explicit bf16(float value) : bits(encode(value)) {}
  NIBBLE_HD static constexpr bf16 from_bits(std::uint16_t raw) {
    bf16 out;
    out.bits = raw;
    return out;
  }
  NIBBLE_HD constexpr explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  friend constexpr bool operator==(bf16, bf16) = default;  // of the bits

 private:
  NIBBLE_HD static constexpr std::uint16_t encode(float value) {
    const auto wide = std::bit_cast<std::uint32_t>(value);
    if ((wide & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((wide >> 16) | 0x40u);
    return static_cast<std::uint16_t>(detail::shift_right_round_even(wide, 16));
  }
};

/// OCP E4M3 as checkpoints store it ("F8_E4M3"): no infinity, S.1111.111 is NaN, finite up to 448. Read only.
struct f8_e4m3 {
  std::uint8_t bits = 0;
  NIBBLE_HD constexpr explicit operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x80u) << 24;
    const std::uint32_t magnitude = bits & 0x7fu;
    if (magnitude == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(detail::decode_small_float(magnitude, 4, 3)));
  }
};

/// OCP E5M2 ("F8_E5M2"): the upper byte of a binary16. Read only.
struct f8_e5m2 {
  std::uint8_t bits = 0;
  NIBBLE_HD constexpr explicit operator float() const {
    return static_cast<float>(f16::from_bits(static_cast<std::uint16_t>(bits << 8)));
  }
};

}  // namespace nibble::inline NIBBLE_ABI
