// The front door: weights in, canonical quantized matrix out.
#pragma once

#include <cmath>
#include <string_view>

#include "nibble/backend/backend.h"
#include "nibble/backend/ops.h"

namespace nibble::inline NIBBLE_ABI {

/// What quantize() needs beside the spec; the defaults are right for most callers.
struct QuantizeOptions {
  std::string_view name = "matrix";  ///< Named in errors.
  const Backend* backend = nullptr;  ///< Null: default_backend().
  Executor* executor = nullptr;      ///< Null: default_executor().
};

/// Rounds every weight to the nearest code of its group ("round to nearest"). Errors as Backend::quantize.
inline QuantizedMatrix quantize(FloatMatrix weights, const QuantSpec& spec, const QuantizeOptions& options = {}) {
  const Backend& backend = options.backend ? *options.backend : default_backend();
  Executor& executor = options.executor ? *options.executor : default_executor();
  return backend.quantize(weights, spec, options.name, executor);
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
