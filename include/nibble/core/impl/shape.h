// Shapes in the words of an error.
#pragma once

#include <cstddef>
#include <string>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::detail {

/// "rows × cols".
inline std::string shape(std::size_t rows, std::size_t cols) {
  return std::to_string(rows) + " × " + std::to_string(cols);
}

}  // namespace nibble::inline NIBBLE_ABI::detail
