// Floats on their way to a type that cannot hold them all: no overflow is stored as if it were a number.
#pragma once

#include <cstddef>
#include <limits>
#include <span>
#include <string_view>

#include "nibble/core/dtype.h"

namespace nibble::inline NIBBLE_ABI {

/// The least magnitude that F16, BF16 or F32 rounds to infinity.
constexpr float least_overflow(DType type) {
  return type == DType::f16 ? 65520.0f : type == DType::bf16 ? 0x1.ffp127f : std::numeric_limits<float>::infinity();
}

/// Error{non_finite} names the tensor, the place and the value of the first of `values` that is not finite, or would
/// not be in `type`. They are the elements from (first_row, first_col) on of a matrix of `cols` columns.
void check_downcast(std::span<const float> values, DType type, std::string_view name, std::size_t cols,
                    std::size_t first_row = 0, std::size_t first_col = 0);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/core/impl/downcast_inl.h"
#endif
