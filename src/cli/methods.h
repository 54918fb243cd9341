// The methods that `compare` and `quantize` know by name.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/dtype.h"
#include "nibble/matrix/quant_spec.h"
#include "nibble/model/calibrate.h"

namespace nibble::cli {

/// Either a floating-point type that the linear layers are stored in, or a quantization of them.
struct Method {
  std::string name;
  DType dense = DType::f32;  ///< Of the linear layers when there is no spec.
  std::optional<QuantSpec> spec;
  std::optional<model::CalibratedMethod> calibrated;  ///< GPTQ or AWQ, which store what `spec` says.
  bool int8_activations = false;  ///< Multiplied by activations rounded to 8 bits; what is stored is the same.
};

/// "fp32", "fp16", "bf16", any text CalibratedMethod::parse or QuantSpec::parse takes, integer ones with "+a8" for
/// 8-bit activations. Error{invalid_argument} says what there is.
Method parse_method(std::string_view name);
/// The same for quantizing while a model is loaded, which GPTQ and AWQ cannot: Error{invalid_argument}.
Method parse_loading_method(std::string_view name);

/// The name of what is stored: without "+a8".
std::string_view stored_name(std::string_view name);

/// The rows of `compare` when none are named.
const std::vector<std::string>& default_methods();

}  // namespace nibble::cli
