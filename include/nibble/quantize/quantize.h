// The front door: weights in, canonical quantized matrix out.
#pragma once

#include <cmath>
#include <span>
#include <string_view>

#include "nibble/backend/backend.h"
#include "nibble/backend/ops.h"

namespace nibble::inline NIBBLE_ABI {

/// What quantize() needs beside the spec; the defaults are right for most callers.
struct QuantizeOptions {
  std::string_view name = "matrix";  ///< Named in errors.
  const Backend* backend = nullptr;  ///< Null: default_backend().
  Executor* executor = nullptr;      ///< Null: default_executor().
  /// What a squared error of each column counts, the mean square of the activations that multiply it
  /// (format/imatrix.h), or empty: every weight is rounded to the nearest code of its group's whole range. See
  /// quantize_by_importance().
  std::span<const float> importance = {};
};

/// Rounds to nearest within limits: of each group those, of a few dozen, are taken as its range that make the least of
/// the squared errors, as often as the importance of their columns counts them. Weights beyond get the outermost codes.
/// The result is that of Backend::quantize on weights cut to these limits, so every scheme has it, and what reads it
/// knows no difference; it never counts more errors than plain rounding. Takes as long as 24 to 36 roundings and
/// decodings, and holds four copies of the matrix in fp32 beside two quantized ones. Errors
/// beside those of Backend::quantize: shape_mismatch for an importance that is not of `cols` columns, and non_finite
/// names a column whose importance is negative or no number.
QuantizedMatrix quantize_by_importance(FloatMatrix weights, const QuantSpec& spec, std::span<const float> importance,
                                       std::string_view name, const Backend& backend, Executor& executor);

/// Rounds every weight to the nearest code of its group ("round to nearest"). Errors as Backend::quantize and
/// quantize_by_importance.
inline QuantizedMatrix quantize(FloatMatrix weights, const QuantSpec& spec, const QuantizeOptions& options = {}) {
  const Backend& backend = options.backend ? *options.backend : default_backend();
  Executor& executor = options.executor ? *options.executor : default_executor();
  return options.importance.empty()
             ? backend.quantize(weights, spec, options.name, executor)
             : quantize_by_importance(weights, spec, options.importance, options.name, backend, executor);
}

/// The same, the spec as text: quantize(weights, "int4-g128-sym").
inline QuantizedMatrix quantize(FloatMatrix weights, std::string_view spec, const QuantizeOptions& options = {}) {
  return quantize(weights, QuantSpec::parse(spec), options);
}

/// Decodes the whole matrix into `out` [rows, cols].
inline void dequantize(const QuantizedMatrix& q, MatrixView<float> out, const QuantizeOptions& options = {}) {
  const Backend& backend = options.backend ? *options.backend : default_backend();
  backend.dequantize(q, 0, out, options.executor ? *options.executor : default_executor());
}

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/quantize/impl/importance_inl.h"
#endif
