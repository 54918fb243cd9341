// What a backend asks of a call's arguments before it touches memory.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "nibble/core/error.h"
#include "nibble/core/matrix_view.h"
#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI {

/// What `q` holds, and that these rows of it and `out` are there.
template <class Out>
void check_dequantize(const QuantizedMatrix& q, std::size_t first_row, const Out& out) {
  const auto [rows, cols] = std::pair(out.rows, out.cols);
  out.validate("the values decoded to");
  q.validate_layout("matrix");
  if (cols == q.cols && first_row <= q.rows && rows <= q.rows - first_row) return;
  throw Error(ErrorCode::shape_mismatch, "dequantize: rows " + std::to_string(first_row) + " to " +
                                             std::to_string(first_row + rows) + " of " + std::to_string(cols) +
                                             " columns were asked of a matrix of " + std::to_string(q.rows) + " × " +
                                             std::to_string(q.cols));
}

inline void check_upcast(FloatMatrix x, MatrixView<float> out) {
  x.validate("x");
  out.validate("the values upcast to");
  if (x.rows != out.rows || x.cols != out.cols)
    throw Error(ErrorCode::shape_mismatch, "upcast: x is " + std::to_string(x.rows) + " × " + std::to_string(x.cols) +
                                               ", the output " + std::to_string(out.rows) + " × " +
                                               std::to_string(out.cols));
}

}  // namespace nibble::inline NIBBLE_ABI
