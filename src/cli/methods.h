// The methods that `compare` and `quantize` know by name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/dtype.h"
#include "nibble/matrix/quant_spec.h"
#include "nibble/model/calibrate.h"
#include "nibble/solver/hqq.h"

namespace nibble::cli {

/// What `compare` does to a model before it is quantized (nibble/model/rotate.h).
enum class Rotation : std::uint8_t {
  none,
  fold,  ///< "+fold": norms folded, which rotations need, and which has effects of its own.
  rot,   ///< "+rot": and both rotations.
};

/// A floating-point type that the linear layers are stored in, a quantization of them, or a GGUF file.
struct Method {
  std::string name;
  DType dense = DType::f32;  ///< Of the linear layers when there is no spec.
  std::optional<QuantSpec> spec;
  std::optional<model::CalibratedMethod> calibrated;  ///< GPTQ or AWQ, which store what `spec` says.
  std::optional<hqq::Options> hqq = {};               ///< HQQ, which stores what `spec` says.
  std::vector<std::string> gguf = {};                 ///< Not empty: what export-gguf is told, which writes it.
  bool gguf_needs_text = false;                       ///< It is told a --calibration, too.
  Rotation rotation = Rotation::none;
  bool int8_activations = false;  ///< Multiplied by activations rounded to 8 bits; what is stored is the same.
};

/// "fp32", "fp16", "bf16", any text CalibratedMethod::parse, hqq::Options::parse or QuantSpec::parse takes, integer
/// ones with "+a8" for 8-bit activations. Of GGUF: a type or a mix ("q4_k", "q4_k_m"; "mix-q2_k" where a type is called
/// so, too), or "plan-4.5" for so many bits a weight; "gptq-" before it, or "-imatrix" behind it.
/// Error{invalid_argument} says what there is.
Method parse_method(std::string_view name);
/// The same for a row of `compare`: any of these that is of no GGUF file may have "+fold" or "+rot" behind it, and
/// "+a8" after that.
Method parse_compared_method(std::string_view name);
/// The same for quantizing while a model is loaded, which GPTQ, AWQ, HQQ and GGUF's cannot: Error{invalid_argument}.
Method parse_loading_method(std::string_view name);

/// The name of what is stored: without "+a8".
std::string_view stored_name(std::string_view name);
/// And without "+fold" or "+rot": what a rotated model is quantized as.
std::string_view unrotated_name(std::string_view stored);

/// The rows of `compare` when none are named.
const std::vector<std::string>& default_methods();

}  // namespace nibble::cli
