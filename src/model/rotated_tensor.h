// The arithmetic of folding: a tensor's columns scaled and its two sides rotated, in double, each value rounded once.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "nibble/core/buffer.h"
#include "nibble/core/parallel.h"
#include "rotate_plan.h"

namespace nibble::inline NIBBLE_ABI::model {

/// What `change` makes of `values` [rows, cols], as elements of `type`; `norm` has a factor for each column, or is
/// empty. Error{non_finite} names the place of a value that is not finite, or would not be in `type`, in `tensor`.
Buffer rotated_tensor(const std::vector<float>& values, const TensorChange& change, std::span<const double> norm,
                      DType type, const std::string& tensor, Executor& executor);

}  // namespace nibble::inline NIBBLE_ABI::model
