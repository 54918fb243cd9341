// LLM.int8() activations straight from the paper (Dettmers et al. 2022, section 3.2), which the backends are held to:
// rows in int8, except the columns where an outlier lives.
#pragma once

#include <cstddef>
#include <vector>

#include "nibble/core/matrix_view.h"
#include "nibble/scheme/llm_int8.h"

namespace nibble::testing_support {

struct Int8Activations {
  /// rows × cols signed codes, −127 … 127, held as fp32 integers; outlier columns are 0 in every row.
  std::vector<float> codes;
  std::vector<float> absmax;                 ///< Per row, over the values below the threshold; 0 for a row without any.
  std::vector<std::size_t> outlier_columns;  ///< Ascending: columns with some |x| ≥ threshold.
};

/// Of finite x [tokens, features]. Threshold 0: no outliers, every value counts.
inline Int8Activations quantize_activations_llm_int8(MatrixView<const float> x, float threshold) {
  Int8Activations out;
  out.codes.resize(x.rows * x.cols);
  out.absmax.resize(x.rows);
  std::vector<bool> outlier(x.cols, false);
  for (std::size_t r = 0; r < x.rows; ++r) {
    float most = 0;
    for (std::size_t c = 0; c < x.cols; ++c) {
      const float size = magnitude(x(r, c));
      if (threshold > 0 && size >= threshold) outlier[c] = true;
      else if (most < size) most = size;
    }
    out.absmax[r] = LlmInt8::fit(Range{-most, most}).absmax;
  }
  for (std::size_t c = 0; c < x.cols; ++c)
    if (outlier[c]) out.outlier_columns.push_back(c);
  for (std::size_t r = 0; r < x.rows; ++r) {
    const float factor = LlmInt8::multiplier(out.absmax[r]);
    for (std::size_t c = 0; c < x.cols; ++c)
      if (!outlier[c])
        out.codes[r * x.cols + c] = static_cast<float>(LlmInt8::encode_scaled(x(r, c), factor) - LlmInt8::zero_point);
  }
  return out;
}

}  // namespace nibble::testing_support
