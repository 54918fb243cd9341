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

/// The way back for a magnitude: the nearest such float, ties to the even code, past the largest as if exponents went
/// on. Infinity and NaN give a code beyond every finite one.
NIBBLE_HD constexpr std::uint32_t encode_small_float(float magnitude, int exponent_bits, int mantissa_bits) {
  const int least_exponent = 127 + 1 - ((1 << (exponent_bits - 1)) - 1);  // of a normal value, as binary32 biases it
  const auto wide = std::bit_cast<std::uint32_t>(magnitude);
  const int exponent = static_cast<int>(wide >> 23), shift = 23 - mantissa_bits;
  if (exponent >= least_exponent)  // a carry out of the mantissa bumps the exponent, as it should
    return shift_right_round_even(wide - (static_cast<std::uint32_t>(least_exponent - 1) << 23), shift);
  const int lost = shift + least_exponent - exponent;  // subnormal: the implicit bit becomes explicit
  return lost > 25 ? 0 : shift_right_round_even((wide & 0x7fffffu) | 0x800000u, lost);
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

/// OCP E4M3 as checkpoints store it ("F8_E4M3"): no infinity, S.1111.111 is NaN, finite up to 448. What is larger
/// becomes 448 of its sign, as newer releases of torch have it; other libraries make it NaN.
struct f8_e4m3 {
  std::uint8_t bits = 0;

  f8_e4m3() = default;
  NIBBLE_HD constexpr explicit f8_e4m3(float value) : bits(encode(value)) {}
  NIBBLE_HD static constexpr f8_e4m3 from_bits(std::uint8_t raw) {
    f8_e4m3 out;
    out.bits = raw;
    return out;
  }
  NIBBLE_HD constexpr explicit operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x80u) << 24;
    const std::uint32_t magnitude = bits & 0x7fu;
    if (magnitude == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(detail::decode_small_float(magnitude, 4, 3)));
  }

 private:
  NIBBLE_HD static constexpr std::uint8_t encode(float value) {
    const auto wide = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = wide >> 24 & 0x80u, magnitude = wide & 0x7fffffffu;
    const std::uint32_t code = detail::encode_small_float(std::bit_cast<float>(magnitude), 4, 3);
    return static_cast<std::uint8_t>(sign | (magnitude > 0x7f800000u ? 0x7fu : code > 0x7eu ? 0x7eu : code));
  }
};

/// OCP E5M2 ("F8_E5M2"): the upper byte of a binary16. Read only.
struct f8_e5m2 {
  std::uint8_t bits = 0;
  NIBBLE_HD constexpr explicit operator float() const {
    return static_cast<float>(f16::from_bits(static_cast<std::uint16_t>(bits << 8)));
  }
};

/// OCP E8M0 ("F8_E8M0"): a power of two, 2^(bits − 127), without sign or zero; 255 is NaN. A float becomes the nearest
/// power (1.5·2^k the upper one), within 2^−127 … 2^127: powers themselves stay what they are.
struct f8_e8m0 {
  std::uint8_t bits = 0;

  f8_e8m0() = default;
  NIBBLE_HD constexpr explicit f8_e8m0(float value) : bits(encode(value)) {}
  NIBBLE_HD static constexpr f8_e8m0 from_bits(std::uint8_t raw) {
    f8_e8m0 out;
    out.bits = raw;
    return out;
  }
  NIBBLE_HD constexpr explicit operator float() const {
    const std::uint32_t wide = bits == 0     ? 0x400000u
                               : bits == 255 ? 0x7fc00000u
                                             : static_cast<std::uint32_t>(bits) << 23;
    return std::bit_cast<float>(wide);
  }

 private:
  NIBBLE_HD static constexpr std::uint8_t encode(float value) {
    const auto wide = std::bit_cast<std::uint32_t>(value);
    if ((wide & 0x7fffffffu) > 0x7f800000u) return 255;
    if (wide >> 31 != 0 || wide < 0x600000u) return 0;  // below 1.5·2^−127, which is a subnormal float
    const std::uint32_t power = (wide + 0x400000u) >> 23;
    return static_cast<std::uint8_t>(power > 254 ? 254 : power);
  }
};

}  // namespace nibble::inline NIBBLE_ABI
