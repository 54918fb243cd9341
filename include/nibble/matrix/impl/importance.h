// What the errors of weights count where the importance of their input channels is known.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "nibble/core/error.h"
#include "nibble/core/rounded_product.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI::detail {

/// Error{shape_mismatch} for an importance of another number of columns, and Error{non_finite} names a column whose
/// importance is negative or no number. Empty: there is none.
inline void check_importance(std::string_view name, std::span<const float> importance, std::size_t cols) {
  if (!importance.empty() && importance.size() != cols)
    throw Error(ErrorCode::shape_mismatch, "tensor '" + std::string(name) + "' has " + std::to_string(cols) +
                                               " columns; its importance is that of " +
                                               std::to_string(importance.size()));
  for (std::size_t c = 0; c < importance.size(); ++c)
    if (!(importance[c] >= 0) || !is_finite(importance[c]))
      throw Error(ErrorCode::non_finite, "tensor '" + std::string(name) + "': the importance of column " +
                                             std::to_string(c) + " is " + std::to_string(importance[c]) +
                                             "; it must be a number and not negative");
}

/// What the errors of a row's values count: the importance of their columns times the fourth root of (the row's mean
/// square + the value's own). Where inputs are independent the importance alone is right; they are not, and errors of
/// large weights then count for more. llama.cpp takes the square root. On two models the fourth root gives a lower
/// divergence than either for most types (bench/README.md).
inline void weigh(const float* x, std::span<const float> importance, float* to) {
  const RoundedProduct<double> times;
  const auto most = static_cast<double>(std::max(*std::max_element(importance.begin(), importance.end()), 0x1p-126f));
  double sum = 0;
  for (std::size_t c = 0; c < importance.size(); ++c)
    sum += times(static_cast<double>(x[c]), static_cast<double>(x[c]));
  const double mean = sum / static_cast<double>(importance.size());
  for (std::size_t c = 0; c < importance.size(); ++c) {
    const double square = times(static_cast<double>(x[c]), static_cast<double>(x[c]));
    to[c] = static_cast<float>(static_cast<double>(importance[c]) / most * std::sqrt(std::sqrt(mean + square)));
  }
}

}  // namespace nibble::inline NIBBLE_ABI::detail
