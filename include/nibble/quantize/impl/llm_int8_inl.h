// What quantize/llm_int8.h declares.
#pragma once

#include "nibble/quantize/llm_int8.h"

#include <string>

#include "nibble/core/error.h"
#include "nibble/scheme/llm_int8.h"

namespace nibble::inline NIBBLE_ABI {

NIBBLE_INLINE Int8Activations quantize_activations_llm_int8(MatrixView<const float> x, float threshold) {
  x.validate("x");
  if (!(threshold >= 0) || !is_finite(threshold))
    throw Error(ErrorCode::invalid_argument,
                "the outlier threshold is " + std::to_string(threshold) + "; it must be 0 (none) or positive");
  Int8Activations out;
  out.codes.resize(x.rows * x.cols);
  out.absmax.resize(x.rows);
  std::vector<bool> outlier(x.cols, false);
  const auto is_outlier = [&](float v) { return threshold > 0 && magnitude(v) >= threshold; };
  for (std::size_t r = 0; r < x.rows; ++r) {
    float most = 0;
    for (std::size_t c = 0; c < x.cols; ++c) {
      const float v = x(r, c);
      if (!is_finite(v))
        throw Error(ErrorCode::non_finite,
                    "activation row " + std::to_string(r) + ", column " + std::to_string(c) + " is not finite");
      if (is_outlier(v)) outlier[c] = true;
      else most = most < magnitude(v) ? magnitude(v) : most;
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

}  // namespace nibble::inline NIBBLE_ABI
