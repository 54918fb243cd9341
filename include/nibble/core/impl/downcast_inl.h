// What core/impl/downcast.h declares.
#pragma once

#include "nibble/core/impl/downcast.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

inline std::string text_of(float value) {
  char out[32];
  std::snprintf(out, sizeof out, "%.7g", static_cast<double>(value));
  return out;
}

[[noreturn]] inline void refuse(float value, DType type, std::string_view name, std::size_t row, std::size_t col) {
  const std::string what = "tensor '" + std::string(name) + "', row " + std::to_string(row) + ", column " +
                           std::to_string(col) + ": the value is ";
  if (std::isnan(value)) throw Error(ErrorCode::non_finite, what + "NaN; only finite values are stored");
  if (std::isinf(value))
    throw Error(ErrorCode::non_finite, what + (value > 0 ? "+" : "-") + "infinity; only finite values are stored");
  throw Error(ErrorCode::non_finite,
              what + text_of(value) + ", beyond what " + std::string(name_of(type)) + " holds (" +
                  (type == DType::f16 ? "65504; choose BF16 or F32" : "3.39e38; choose F32") + ")");
}

}  // namespace detail

NIBBLE_INLINE void check_downcast(std::span<const float> values, DType type, std::string_view name, std::size_t cols,
                                  std::size_t first_row, std::size_t first_col) {
  const float limit = least_overflow(type);
  const auto bad = std::find_if_not(values.begin(), values.end(), [=](float x) { return std::abs(x) < limit; });
  if (bad == values.end()) return;
  const std::size_t at = first_row * cols + first_col + static_cast<std::size_t>(bad - values.begin());
  detail::refuse(*bad, type, name, at / cols, at % cols);
}

}  // namespace nibble::inline NIBBLE_ABI
