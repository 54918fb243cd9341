// A whole model directory to another: each linear layer quantized or converted, one at a time. No architecture need be
// known for that: it is computed with by nobody.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/progress.h"
#include "nibble/format/imatrix.h"

namespace nibble::inline NIBBLE_ABI::model {

struct QuantizeModelOptions {
  std::optional<QuantSpec> spec;    ///< Of the linear layers; the rest is copied. Without one: convert.
  std::optional<DType> convert_to;  ///< Without a spec: F32, F16 or BF16 for every floating-point tensor;
                                    ///< layers that are quantized are decoded.
  /// With a spec: patterns of layers that stay as they are, and of the only ones that do not (a name or part of one
  /// from dot to dot, a glob, or "re:" and a regular expression). One that matches nothing is an error.
  std::vector<std::string> skip, only;
  bool lm_head = false;  ///< With a spec: quantize the head too. Not if it is tied to the embedding.
  /// With a spec: gives the matrix of a layer, of this spec and the layer's shape, in place of Backend::quantize, where
  /// it was made elsewhere (engine/qat_model.h). Called once for each layer, in the order of the file.
  std::function<QuantizedMatrix(const std::string& layer)> matrix = {};
  /// With a spec: makes a layer's matrix, of this spec, from its weights, in place of rounding to nearest: hqq::solve,
  /// say. `importance`: that of its columns, or empty; `name` is for errors.
  std::function<QuantizedMatrix(const FloatMatrix& weights, const std::string& name, std::span<const float> importance)>
      solver = {};
  /// With a spec: what the errors of each input channel count (quantize_by_importance), under GGUF's names
  /// (engine::importance, or llama.cpp's imatrix) or the layers' own; null: all alike. Layers that are not in it are
  /// rounded as without. A layer that is in it is held in four more copies of fp32.
  const ImportanceMatrix* importance = nullptr;
  const Backend* backend = nullptr;  ///< Null: default_backend().
  Executor* executor = nullptr;      ///< Null: default_executor().
  Progress progress;
};

struct QuantizeModelReport {
  std::size_t layers = 0;      ///< Linear layers quantized.
  std::size_t file_bytes = 0;  ///< Of model.safetensors.
  double bits_per_weight = 0;  ///< Over the quantized layers, scales included.
  /// Files beside the weights that were not copied, each with the reason: "pytorch_model.bin (weights)".
  std::vector<std::string> left_out;
  /// For the user: what was found and left where the architecture is not known; of a GGUF input a second quantization,
  /// or a tokenizer that could not be written.
  std::vector<std::string> notes;
};

/// The linear layers are those of the blocks, by the table of an architecture that is known (architecture.h). Of others
/// they are found by name and shape: matrices "NAME.weight", and 3-D stacks of experts' matrices, of which each becomes
/// a layer ("experts.down_proj.0"). What is named as an embedding, a head, a norm or a router stays.
///
/// Reads the model `from`, a directory or a GGUF file, and writes the model `to`, which must not exist:
/// model.safetensors, config.json with its quantization_config, and all files beside the weights that do not speak of
/// them. Holds about one tensor at a time, whatever the model's size. The directory gets its name only when complete,
/// so an error, a cancel or a crash leaves nothing under it. Errors: invalid_argument (`to` exists, lies inside `from`
/// or cannot be a folder's name; neither spec nor convert_to; a spec and layers that are quantized already; a pattern
/// that matches no layer; no linear layer found; an importance that knows none of them); not_found counts the weights
/// that config.json promises and the file lacks, and says what lies there instead; those of Checkpoint (unsupported: a
/// weight quantized in a way nothing decodes) and Backend::quantize.
QuantizeModelReport quantize_model(const std::filesystem::path& from, const std::filesystem::path& to,
                                   const QuantizeModelOptions& options);

}  // namespace nibble::inline NIBBLE_ABI::model
