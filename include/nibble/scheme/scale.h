// The types that a scale is stored in, and what storing does to its value.
//
// Codes are always computed with the scale as stored, so that encode and decode
// agree whatever the type. A new type is an enumerator, a ScaleTraits and a
// line in visit_scale: specs then parse and print it, quantizers fit to it, and
// our file layout stores it. Kernels that do not know it get the scales as
// fp32.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

#include "nibble/core/dtype.h"
#include "nibble/core/float_types.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI {

/// e8m0 and e4m3 are for codes that are floats themselves
/// (scheme/small_float.h): powers of two, and values whose matrix has one more
/// scale, QuantizedMatrix::tensor_scale.
enum class ScaleType : std::uint8_t { f32, f16, bf16, e8m0, e4m3 };

inline constexpr std::array kScaleTypes{ScaleType::f32, ScaleType::f16, ScaleType::bf16, ScaleType::e8m0,
                                        ScaleType::e4m3};

/// What is known of a scale type T: its option in a spec, its type in a file,
/// and `least`, the smallest scale that still divides (the least normal float,
/// or the least positive f16).
template <class T>
struct ScaleTraits;
template <>
struct ScaleTraits<float> {
  static constexpr std::string_view name = "f32";
  static constexpr DType dtype = DType::f32;
  static constexpr float least = std::numeric_limits<float>::min();
};
template <>
struct ScaleTraits<f16> {
  static constexpr std::string_view name = "f16";
  static constexpr DType dtype = DType::f16;
  static constexpr float least = 0x1p-24f;
};
template <>
struct ScaleTraits<bf16> {
  static constexpr std::string_view name = "bf16";
  static constexpr DType dtype = DType::bf16;
  static constexpr float least = std::numeric_limits<float>::min();
};
template <>
struct ScaleTraits<f8_e8m0> {
  static constexpr std::string_view name = "e8m0";
  static constexpr DType dtype = DType::f8_e8m0;
  static constexpr float least = 0x1p-127f;
};
template <>
struct ScaleTraits<f8_e4m3> {
  static constexpr std::string_view name = "e4m3";
  static constexpr DType dtype = DType::f8_e4m3;
  static constexpr float least = 0x1p-9f;
};

/// Calls visit(T{}) with the C++ type of a scale type.
template <class Visitor>
NIBBLE_HD constexpr decltype(auto) visit_scale(ScaleType type, Visitor&& visit) {
  switch (type) {
    case ScaleType::f16: return visit(f16{});
    case ScaleType::bf16: return visit(bf16{});
    case ScaleType::e8m0: return visit(f8_e8m0{});
    case ScaleType::e4m3: return visit(f8_e4m3{});
    case ScaleType::f32: break;
  }
  return visit(float{});
}

/// Bytes of one stored scale.
constexpr int scale_bytes(ScaleType type) {
  return visit_scale(type, []<class T>(T) { return static_cast<int>(sizeof(T)); });
}
/// "f16"
constexpr std::string_view name_of(ScaleType type) {
  return visit_scale(type, []<class T>(T) { return ScaleTraits<T>::name; });
}
/// The type of a tensor of scales.
constexpr DType dtype_of(ScaleType type) {
  return visit_scale(type, []<class T>(T) { return ScaleTraits<T>::dtype; });
}

/// `scale` (≥ 0, finite) as it reads back from storage, never below the
/// smallest value that still divides. That floor is what makes all-zero and
/// denormal groups ordinary ones. Infinity where the type cannot hold the
/// scale; the caller turns that into an error.
NIBBLE_HD constexpr float stored_scale(float scale, ScaleType type) {
  return visit_scale(type, [&]<class T>(T) {
    constexpr float least = ScaleTraits<T>::least;  // a copy: device code cannot name a static member
    const auto rounded = static_cast<float>(T(scale));
    return rounded < least ? least : rounded;
  });
}

/// Scale i of an array of that type, and the way back: a value that came from
/// stored_scale loses nothing.
NIBBLE_HD inline float load_scale(ScaleType type, const void* scales, std::size_t i) {
  return visit_scale(type, [&]<class T>(T) { return static_cast<float>(static_cast<const T*>(scales)[i]); });
}
NIBBLE_HD inline void store_scale(ScaleType type, void* scales, std::size_t i, float scale) {
  visit_scale(type, [&]<class T>(T) { static_cast<T*>(scales)[i] = T(scale); });
}

}  // namespace nibble::inline NIBBLE_ABI
