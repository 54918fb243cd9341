// Non-owning views of row-major matrices: typed, and with the element type known at run time.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "nibble/core/dtype.h"
#include "nibble/core/float_types.h"

namespace nibble {

/// rows × cols elements, row r starting at data + r·stride. Does not own; pass by value.
template <class T>
struct MatrixView {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;  ///< Elements from one row to the next; at least cols.

  constexpr MatrixView() = default;
  constexpr MatrixView(T* first, std::size_t row_count, std::size_t column_count, std::size_t row_stride)
      : data(first), rows(row_count), cols(column_count), stride(row_stride) {}
  constexpr MatrixView(T* first, std::size_t row_count, std::size_t column_count)
      : MatrixView(first, row_count, column_count, column_count) {}
  /// MatrixView<float> is a MatrixView<const float>.
  constexpr operator MatrixView<const T>() const requires(!std::is_const_v<T>) { return {data, rows, cols, stride}; }

  constexpr std::span<T> row(std::size_t r) const { return {data + r * stride, cols}; }
  constexpr T& operator()(std::size_t r, std::size_t c) const { return data[r * stride + c]; }
  constexpr MatrixView row_range(std::size_t first, std::size_t count) const {
    return {data + first * stride, count, cols, stride};
  }
};

/// A read-only matrix of fp32, fp16 or bf16, the type known at run time: what quantizers and backends take.
struct FloatMatrix {
  const void* data = nullptr;
  DType type = DType::f32;  ///< f32, f16 or bf16.
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;  ///< In elements.

  constexpr FloatMatrix() = default;
  constexpr FloatMatrix(const void* first, DType element, std::size_t row_count, std::size_t column_count,
                        std::size_t row_stride)
      : data(first), type(element), rows(row_count), cols(column_count), stride(row_stride) {}
  constexpr FloatMatrix(MatrixView<const float> m) : FloatMatrix(m.data, DType::f32, m.rows, m.cols, m.stride) {}
  constexpr FloatMatrix(MatrixView<float> m) : FloatMatrix(MatrixView<const float>(m)) {}
  constexpr FloatMatrix(MatrixView<const f16> m) : FloatMatrix(m.data, DType::f16, m.rows, m.cols, m.stride) {}
  constexpr FloatMatrix(MatrixView<const bf16> m) : FloatMatrix(m.data, DType::bf16, m.rows, m.cols, m.stride) {}
  [[nodiscard]] const void* row(std::size_t r) const {
    return static_cast<const std::byte*>(data) + r * stride * size_of(type);
  }
};

/// The same to be written: what backends decode into.
struct MutableFloatMatrix {
  void* data = nullptr;
  DType type = DType::f32;  ///< f32, f16 or bf16.
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;  ///< In elements.

  constexpr MutableFloatMatrix() = default;
  constexpr MutableFloatMatrix(MatrixView<float> m) : data(m.data), rows(m.rows), cols(m.cols), stride(m.stride) {}
  constexpr MutableFloatMatrix(MatrixView<f16> m)
      : data(m.data), type(DType::f16), rows(m.rows), cols(m.cols), stride(m.stride) {}
  constexpr MutableFloatMatrix(MatrixView<bf16> m)
      : data(m.data), type(DType::bf16), rows(m.rows), cols(m.cols), stride(m.stride) {}
  [[nodiscard]] void* row(std::size_t r) const { return static_cast<std::byte*>(data) + r * stride * size_of(type); }
};

}  // namespace nibble
