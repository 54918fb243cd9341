// Schemes whose codes are floats of eight bits or fewer: value = float(code) · scale of the group. FP8 with a scale for
// the tensor, a row or a tile; the MX types, whose scale is a power of two; NVFP4, whose scale is an E4M3 times one of
// the matrix.
//
// Sources: OCP 8-bit Floating Point Specification 1.0; OCP Microscaling Formats (MX) 1.0, sections 5 and 6.3; the
// scales of NVFP4 as compressed-tensors 0.20 has them.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

#include "nibble/core/float_types.h"
#include "nibble/scheme/range.h"
#include "nibble/scheme/scale.h"

namespace nibble::inline NIBBLE_ABI {

/// Which codes of a format with the most exponent bits set are no numbers.
enum class Specials : std::uint8_t {
  none,  ///< All are numbers.
  nan,   ///< The largest code alone, and its negative, are NaN (E4M3).
  ieee,  ///< The whole last binade is infinity and NaN (E5M2).
};

/// A sign, `Exponent` bits biased as IEEE 754 has it, `Mantissa` bits, with subnormals.
template <int Exponent, int Mantissa, Specials Special>
struct SmallFloat {
  static constexpr int bits = 1 + Exponent + Mantissa;
  /// What ScaleRule::even rounds a group's largest magnitude to.
  static constexpr int even_bits = Mantissa;
  static constexpr std::uint8_t sign_bit = 1u << (bits - 1);
  /// The code of the largest finite value.
  static constexpr std::uint8_t largest_code = sign_bit - 1 -
                                               (Special == Specials::nan    ? 1
                                                : Special == Specials::ieee ? 1 << Mantissa
                                                                            : 0);
  static constexpr float largest = detail::decode_small_float(largest_code, Exponent, Mantissa);

  /// NaN for every code that is no number, infinities among them.
  NIBBLE_HD static constexpr float decode(std::uint8_t code) {
    const std::uint32_t magnitude = code & (sign_bit - 1u);
    if (magnitude > largest_code) return std::numeric_limits<float>::quiet_NaN();
    const float value = detail::decode_small_float(magnitude, Exponent, Mantissa);
    return (code & sign_bit) != 0 ? -value : value;
  }
  /// The nearest, ties to the even code; beyond the largest (infinity too) the largest. Zero keeps its sign, and what
  /// rounds to it. Of NaN, the largest.
  NIBBLE_HD static constexpr std::uint8_t encode(float x) {
    const std::uint32_t code = detail::encode_small_float(magnitude(x), Exponent, Mantissa);
    return static_cast<std::uint8_t>((std::bit_cast<std::uint32_t>(x) >> 31 != 0 ? sign_bit : 0u) |
                                     (code > largest_code ? largest_code : code));
  }
  static constexpr std::array<float, (std::size_t{1} << bits)> values() {
    std::array<float, (std::size_t{1} << bits)> out{};
    for (std::size_t c = 0; c < out.size(); ++c) out[c] = decode(static_cast<std::uint8_t>(c));
    return out;
  }
};

/// The formats: of 8 bits as checkpoints have them, of 6 and 4 as MX does. (E2M1 is not bitsandbytes' FP4.)
struct e4m3 : SmallFloat<4, 3, Specials::nan> {
  static constexpr std::string_view name = "e4m3";
  static constexpr int even_bits = 1;  // so that from 448 on the next power is taken, as compressed-tensors has it
};
struct e5m2 : SmallFloat<5, 2, Specials::ieee> {
  static constexpr std::string_view name = "e5m2";
};
struct e2m3 : SmallFloat<2, 3, Specials::none> {
  static constexpr std::string_view name = "e2m3";
};
struct e3m2 : SmallFloat<3, 2, Specials::none> {
  static constexpr std::string_view name = "e3m2";
};
struct e2m1 : SmallFloat<2, 1, Specials::none> {
  static constexpr std::string_view name = "e2m1";
};
static_assert(e4m3::largest == 448 && e5m2::largest == 57344 && e2m3::largest == 7.5f && e3m2::largest == 28 &&
              e2m1::largest == 6);

/// How the scale of a group is made of its largest magnitude a. Decoding knows nothing of it.
enum class ScaleRule : std::uint8_t {
  largest,  ///< a becomes the format's largest value: scale = a / largest. (A power of two: as `ceil`.)
  floor,    ///< 2^(⌊log₂ a⌋ − ⌊log₂ largest⌋): OCP MX, section 6.3. Values above the largest saturate.
  even,     ///< The same of a as rounded to `even_bits` of mantissa, so that for E2M1 7 becomes 8: fewer saturate.
  ceil,     ///< The least power of two for which nothing saturates.
  search,   ///< Of the two that are near, the one with the smaller squared error; at equal ones the larger. Powers of
            ///< two: `ceil` and half of that. E4M3 scales: a becomes 6 or 4, "four over six" (of E2M1 alone).
};

inline constexpr std::array kScaleRules{ScaleRule::largest, ScaleRule::floor, ScaleRule::even, ScaleRule::ceil,
                                        ScaleRule::search};

/// "even"
constexpr std::string_view name_of(ScaleRule rule) {
  switch (rule) {
    case ScaleRule::largest: break;
    case ScaleRule::floor: return "floor";
    case ScaleRule::even: return "even";
    case ScaleRule::ceil: return "ceil";
    case ScaleRule::search: return "search";
  }
  return "largest";
}

/// What fitting a scale takes beside the group's values.
struct ScaleFit {
  ScaleType type = ScaleType::f32;
  ScaleRule rule = ScaleRule::largest;
  float tensor_divisor = 1;  ///< E4M3 scales are stored times this, and divided by it to read back.

  /// A stored scale as codes are multiplied by it.
  [[nodiscard]] NIBBLE_HD constexpr float value(float stored) const {
    return type == ScaleType::e4m3 ? stored / tensor_divisor : stored;
  }
};

namespace detail {

/// ⌊log₂ x⌋ of a positive finite x.
constexpr int floor_log2(float x) {
  const auto wide = std::bit_cast<std::uint32_t>(x);
  return wide >= 0x800000u ? static_cast<int>(wide >> 23) - 127 : static_cast<int>(std::bit_width(wide)) - 150;
}
/// 2^e, e within −127 … 127.
constexpr float power_of_two(int e) {
  return static_cast<float>(f8_e8m0::from_bits(static_cast<std::uint8_t>(e < -127 ? 0 : e > 127 ? 254 : e + 127)));
}

/// Σ (x − what x is stored as)² over a group.
template <class F>
constexpr double squared_error(std::span<const float> values, float scale) {
  double sum = 0;
  for (const float x : values) {
    const double off = static_cast<double>(F::decode(F::encode(x / scale)) * scale) - static_cast<double>(x);
    sum += off * off;
  }
  return sum;
}

template <class F>
constexpr int scale_exponent(float absmax, ScaleRule rule) {
  const int least = floor_log2(absmax) - floor_log2(F::largest);
  if (rule == ScaleRule::floor) return least;
  if (rule == ScaleRule::even) {  // from 2 − 2^−(bits+1) on, the next power
    const auto mantissa = std::bit_cast<std::uint32_t>(absmax) & 0x7fffffu;
    const bool up = absmax >= 0x1p-126f && mantissa >= 0x800000u - (0x800000u >> (F::even_bits + 1));
    return least + (up ? 1 : 0);
  }
  return least + (absmax > F::largest * power_of_two(least) ? 1 : 0);
}

}  // namespace detail

/// The stored scale of a group: of finite `values`, whose largest magnitude is `absmax` (only `search` looks at them).
/// 1 for a group of zeros. Infinity where the type cannot hold it.
template <class F>
constexpr float fit_scale(std::span<const float> values, float absmax, const ScaleFit& fit) {
  if (absmax == 0) return 1;
  const auto better = [&](float first, float second) {
    const double a = detail::squared_error<F>(values, fit.value(first));
    return detail::squared_error<F>(values, fit.value(second)) < a ? second : first;
  };
  if (fit.type == ScaleType::e8m0) {
    const int e = detail::scale_exponent<F>(absmax, fit.rule);
    const float scale = detail::power_of_two(e);
    return fit.rule == ScaleRule::search ? better(scale, detail::power_of_two(e - 1)) : scale;
  }
  if (fit.type == ScaleType::e4m3) {
    const auto mapped_to = [&](float target) {
      return stored_scale(fit.tensor_divisor * (absmax / target), ScaleType::e4m3);
    };
    const float scale = mapped_to(F::largest);
    return fit.rule == ScaleRule::search ? better(mapped_to(4), scale) : scale;
  }
  return stored_scale(absmax / F::largest, fit.type);
}

/// What the scales of E4M3 are multiplied by before they are stored, of a matrix with this largest magnitude: so that
/// the largest of them is the largest E4M3 (compressed-tensors' weight_global_scale).
template <class F>
constexpr float fit_tensor_divisor(float absmax) {
  const float divisor = absmax == 0 ? 1.0f : e4m3::largest * F::largest / absmax;
  return divisor > std::numeric_limits<float>::max() ? std::numeric_limits<float>::max() : divisor;
}

/// The scheme with one fp32 scale a group (scheme/scheme.h). The quotient x/scale is rounded once, and then to a code.
template <class F>
struct FloatCodes {
  struct Params {
    float scale = 1;
    friend constexpr bool operator==(const Params&, const Params&) = default;
  };
  static constexpr int bits = F::bits;

  static constexpr Params fit(Range r) { return {fit_scale<F>({}, r.absmax(), {})}; }
  static constexpr Params fit(std::span<const float> v) { return fit(range_of(v)); }
  static constexpr std::uint8_t encode(float x, Params p) { return F::encode(x / p.scale); }
  static constexpr float decode(std::uint8_t code, Params p) { return F::decode(code) * p.scale; }
};

/// Every number of a format survives decode-encode.
template <class F>
constexpr bool floats_round_trip() {
  for (std::size_t c = 0; c < std::size_t{1} << F::bits; ++c) {
    const auto code = static_cast<std::uint8_t>(c);
    if (F::decode(code) == F::decode(code) && F::encode(F::decode(code)) != code) return false;
  }
  return true;
}
static_assert(floats_round_trip<e4m3>() && floats_round_trip<e5m2>() && floats_round_trip<e2m3>());
static_assert(floats_round_trip<e3m2>() && floats_round_trip<e2m1>());

}  // namespace nibble::inline NIBBLE_ABI
