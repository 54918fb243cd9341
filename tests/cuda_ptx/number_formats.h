// The 16-bit floats, from their definition: values as double, which holds them all, and rounding to the nearest.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace nibble::cuda_ptx {

/// A float format of 16 bits with so many bits of significand after the point.
struct Format {
  int fraction;
  [[nodiscard]] constexpr int exponent_bits() const { return 15 - fraction; }
  [[nodiscard]] constexpr int bias() const { return (1 << (exponent_bits() - 1)) - 1; }
};
inline constexpr Format f16_format{10}, bf16_format{7};

inline double upcast(std::uint16_t code, Format f) {
  const int exponent = (code >> f.fraction) & ((1 << f.exponent_bits()) - 1);
  const int fraction = code & ((1 << f.fraction) - 1);
  double magnitude = 0;
  if (exponent == (1 << f.exponent_bits()) - 1)
    magnitude = fraction == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  else if (exponent == 0) magnitude = std::ldexp(fraction, 1 - f.bias() - f.fraction);
  else magnitude = std::ldexp((1 << f.fraction) + fraction, exponent - f.bias() - f.fraction);
  return (code & 0x8000) != 0 ? -magnitude : magnitude;
}

/// The same from a table.
inline double value_of(std::uint16_t code, Format f) {
  const auto all = [](Format format) {
    std::vector<double> values(0x10000);
    for (std::size_t n = 0; n < values.size(); ++n) values[n] = upcast(static_cast<std::uint16_t>(n), format);
    return values;
  };
  static const std::vector<double> halves = all(f16_format), brains = all(bf16_format);
  return (f.fraction == f16_format.fraction ? halves : brains)[code];
}

/// The nearest, ties to even; beyond the largest by half a step or more, infinity. NaN is 0x7fff, as on the device.
inline std::uint16_t downcast(double value, Format f) {
  if (std::isnan(value)) return 0x7fff;
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const double magnitude = std::fabs(value);
  const auto infinity = static_cast<std::uint16_t>(((1 << f.exponent_bits()) - 1) << f.fraction);
  if (std::isinf(magnitude)) return static_cast<std::uint16_t>(sign | infinity);
  int exponent = magnitude == 0 ? -100000 : std::ilogb(magnitude);
  if (exponent < 1 - f.bias()) exponent = 1 - f.bias();
  // In steps of the last place; a carry out of the significand raises the exponent's field by itself.
  const double steps = std::nearbyint(std::ldexp(magnitude, f.fraction - exponent));
  const double code = steps + static_cast<double>(exponent + f.bias() - 1) * (1 << f.fraction);
  return static_cast<std::uint16_t>(sign | (code >= infinity ? infinity : static_cast<std::uint16_t>(code)));
}

/// a + b where the sum is no double: the neighbour whose last bit is odd, from which rounding to a shorter format once
/// more gives what rounding the exact sum would.
inline double add_to_odd(double a, double b) {
  const double sum = a + b;
  if (!std::isfinite(sum)) return sum;
  const double part = sum - a, lost = (a - (sum - part)) + (b - part);
  std::int64_t code;
  std::memcpy(&code, &sum, sizeof(code));
  if (lost == 0 || (code & 1) != 0) return sum;
  const bool outwards = (lost > 0) == (sum > 0);
  code += outwards ? 1 : -1;
  double odd;
  std::memcpy(&odd, &code, sizeof(odd));
  return odd;
}

}  // namespace nibble::cuda_ptx
