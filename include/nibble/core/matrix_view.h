// Non-owning views of row-major matrices: typed, and with the element type known at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "nibble/core/dtype.h"
#include "nibble/core/float_types.h"
#include "nibble/core/portability.h"
#include "nibble/core/visit_float.h"

#if NIBBLE_EXCEPTIONS
#include <string>
#include <string_view>

#include "nibble/core/error.h"
#endif

namespace nibble::inline NIBBLE_ABI {

namespace detail {

/// Whether a view can be walked: an empty one always; another needs memory, rows that do not overlap, and an end that
/// an address can name.
constexpr bool is_view(const void* data, std::size_t rows, std::size_t cols, std::size_t stride, std::size_t element) {
  if (rows == 0 || cols == 0) return true;
  const std::size_t most = static_cast<std::size_t>(PTRDIFF_MAX) / element;
  return data != nullptr && stride >= cols && cols <= most && (rows == 1 || stride <= (most - cols) / (rows - 1));
}

#if NIBBLE_EXCEPTIONS
[[noreturn]] inline void refuse_view(std::string_view name, const void* data, std::size_t rows, std::size_t cols,
                                     std::size_t stride) {
  const std::string what =
      "'" + std::string(name) + "' is " + std::to_string(rows) + " × " + std::to_string(cols) + " elements ";
  if (data == nullptr) throw Error(ErrorCode::invalid_argument, what + "at no address: its data is null");
  const std::string apart = what + "with rows " + std::to_string(stride) + " apart";
  if (stride < cols) throw Error(ErrorCode::shape_mismatch, apart + "; a row's stride is at least its columns");
  throw Error(ErrorCode::invalid_argument, apart + ", which is more than memory can hold");
}

[[noreturn]] inline void refuse_type(std::string_view name, DType type) {
  throw Error(ErrorCode::unsupported,
              "'" + std::string(name) + "' is " + std::string(name_of(type)) + "; F32, F16 or BF16 is needed");
}
#endif

}  // namespace detail

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
#if NIBBLE_EXCEPTIONS
  /// What every public call asks of a matrix that it is handed, before memory is touched; a few comparisons. Errors
  /// name `name`: invalid_argument for elements at no address, or more than memory can hold; shape_mismatch for a
  /// stride of less than cols. An empty matrix is one.
  constexpr void validate(std::string_view name) const {
    if (!detail::is_view(data, rows, cols, stride, sizeof(T))) detail::refuse_view(name, data, rows, cols, stride);
  }
#endif
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
  /// One element as fp32. Slow; for what a message says, and small matrices.
  [[nodiscard]] float operator()(std::size_t r, std::size_t c) const { return float_at(type, row(r), c); }
#if NIBBLE_EXCEPTIONS
  /// What every public call asks of a matrix that it is handed, before memory is touched; a few comparisons. Errors
  /// name `name`: invalid_argument for elements at no address, or more than memory can hold; shape_mismatch for a
  /// stride of less than cols; unsupported for another type. An empty matrix is one.
  constexpr void validate(std::string_view name) const {
    if (!is_matrix_type(type)) detail::refuse_type(name, type);
    if (!detail::is_view(data, rows, cols, stride, size_of(type))) detail::refuse_view(name, data, rows, cols, stride);
  }
#endif
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
#if NIBBLE_EXCEPTIONS
  /// What every public call asks of a matrix that it is handed, before memory is touched; a few comparisons. Errors
  /// name `name`: invalid_argument for elements at no address, or more than memory can hold; shape_mismatch for a
  /// stride of less than cols; unsupported for another type. An empty matrix is one.
  constexpr void validate(std::string_view name) const {
    if (!is_matrix_type(type)) detail::refuse_type(name, type);
    if (!detail::is_view(data, rows, cols, stride, size_of(type))) detail::refuse_view(name, data, rows, cols, stride);
  }
#endif
};

}  // namespace nibble::inline NIBBLE_ABI
