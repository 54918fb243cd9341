// LLM.int8() activations (Dettmers et al. 2022): rows in int8, except the columns where an outlier lives.
#pragma once

#include <cstddef>
#include <vector>

#include "nibble/core/matrix_view.h"

namespace nibble::inline NIBBLE_ABI {

/// Activations split into an 8-bit part and outlier columns.
struct Int8Activations {
  /// rows × cols signed codes, −127 … 127, held as fp32 integers for the matmul; outlier columns are 0 in every row.
  std::vector<float> codes;
  std::vector<float> absmax;                 ///< Per row, over the values below the threshold; 0 for a row without any.
  std::vector<std::size_t> outlier_columns;  ///< Ascending: columns with some |x| ≥ threshold.
};

/// Decomposes x [tokens, features]. threshold 0: no outliers, every value counts. Values must be finite: a NaN or
/// infinity throws Error{non_finite} that names its place.
Int8Activations quantize_activations_llm_int8(MatrixView<const float> x, float threshold);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/quantize/impl/llm_int8_inl.h"
#endif
