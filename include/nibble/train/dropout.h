// Dropout whose mask can be made again: a function of the place, not of a generator's past, so that nothing of it is
// kept between the forward pass and the backward one, and neither threads nor a resumed run change it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"

namespace nibble::inline NIBBLE_ABI {
class Backend;
}

namespace nibble::inline NIBBLE_ABI::train {

struct Dropout {
  float rate = 0;  ///< The share of elements that become 0, at random; below 1. The others grow by 1/(1 − rate).
  std::uint64_t seed = 0;     ///< Of the run.
  std::uint64_t stream = 0;   ///< What tells masks of one run apart: a number for each step and layer.
  std::size_t first_row = 0;  ///< The place of a matrix's first row, for a part of one.

  /// Error{invalid_argument} for a rate outside [0, 1).
  void validate() const;
  /// out = the masked x, element by element; they may be the same memory. Row r and column c are kept or not whatever
  /// the shape is: by Philox (core/philox.h) of column and row, keyed by the seed, with the stream.
  /// The backend (null: default_backend()) shows in no bit. Error{shape_mismatch}; errors of validate().
  void apply(MatrixView<const float> x, MatrixView<float> out, Executor& executor = serial_executor(),
             const Backend* backend = nullptr) const;
};

}  // namespace nibble::inline NIBBLE_ABI::train
