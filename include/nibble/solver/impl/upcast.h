// Weights and activations as the fp32 that solvers compute with. No backend is asked: no value changes, so that none
// could do it otherwise, and what a search costs lies elsewhere.
#pragma once

#include <cstddef>
#include <string_view>

#include "nibble/core/matrix_view.h"
#include "nibble/core/visit_float.h"

namespace nibble::inline NIBBLE_ABI::solver {

/// Row by row into `out` [rows, cols]. Errors as FloatMatrix::validate's, naming `name`.
inline void upcast(FloatMatrix x, std::string_view name, float* out) {
  x.validate(name);
  for (std::size_t r = 0; r < x.rows; ++r) upcast_floats(x.type, x.row(r), x.cols, out + r * x.cols);
}

}  // namespace nibble::inline NIBBLE_ABI::solver
