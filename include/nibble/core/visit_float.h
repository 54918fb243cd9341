// The float types that matrices hold, known at run time: one place that goes from a DType to its C++ type, and what is
// built on it.
#pragma once

#include <cstddef>

#include "nibble/core/dtype.h"
#include "nibble/core/float_types.h"

namespace nibble::inline NIBBLE_ABI {

/// Whether matrices of this type can be quantized, multiplied by and decoded into: F32, F16 and BF16.
constexpr bool is_matrix_type(DType type) { return type == DType::f32 || type == DType::f16 || type == DType::bf16; }

/// Calls visit(T{}) with the C++ type of a matrix type (another type is taken for F32: check is_matrix_type first).
template <class Visitor>
constexpr decltype(auto) visit_float(DType type, Visitor&& visit) {
  switch (type) {
    case DType::f16: return visit(f16{});
    case DType::bf16: return visit(bf16{});
    default: return visit(float{});
  }
}

/// Element i of an array of that type, exactly.
inline float float_at(DType type, const void* data, std::size_t i) {
  return visit_float(type, [&]<class T>(T) { return static_cast<float>(static_cast<const T*>(data)[i]); });
}

/// `count` elements as fp32, exactly.
inline void upcast_floats(DType type, const void* from, std::size_t count, float* to) {
  visit_float(type, [&]<class T>(T) {
    for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<float>(static_cast<const T*>(from)[i]);
  });
}

/// `count` fp32 values in that type, each rounded to nearest, ties to even. What it cannot hold becomes infinity:
/// callers that store refuse it before (check_downcast).
inline void downcast_floats(DType type, const float* from, std::size_t count, void* to) {
  visit_float(type, [&]<class T>(T) {
    for (std::size_t i = 0; i < count; ++i) static_cast<T*>(to)[i] = T(from[i]);
  });
}

}  // namespace nibble::inline NIBBLE_ABI
