// What operations say of views that do not fit.
#pragma once

#include <cstddef>
#include <string>

#include "nibble/core/error.h"
#include "nibble/core/matrix_view.h"

namespace nibble::inline NIBBLE_ABI::engine {

inline void need(const char* operation, const char* what, std::size_t is, std::size_t wanted) {
  if (is == wanted) return;
  throw Error(ErrorCode::shape_mismatch, std::string(operation) + ": " + what + " has " + std::to_string(is) + "; " +
                                             std::to_string(wanted) + " are needed");
}

inline void need_shape(const char* operation, const char* what, MatrixView<const float> m, std::size_t rows,
                       std::size_t cols) {
  m.validate(std::string(operation) + ": " + what);
  if (m.rows == rows && m.cols == cols) return;
  throw Error(ErrorCode::shape_mismatch, std::string(operation) + ": " + what + " is " + std::to_string(m.rows) +
                                             " × " + std::to_string(m.cols) + "; " + std::to_string(rows) + " × " +
                                             std::to_string(cols) + " is needed");
}

}  // namespace nibble::inline NIBBLE_ABI::engine
