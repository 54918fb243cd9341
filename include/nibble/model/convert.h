// A quantized model from one checkpoint layout to another: the same codes, scales and zero points, wherever the layouts
// allow it.
//
//   nibble::model::ConvertModelOptions options;
//   options.to = nibble::CheckpointLayout::gptq_v2;
//   auto report = nibble::model::convert_model("model-awq", "model-gptq", options);
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/progress.h"
#include "nibble/format/quantized_tensors.h"

namespace nibble::inline NIBBLE_ABI::model {

struct ConvertModelOptions {
  CheckpointLayout to = CheckpointLayout::nibble;
  /// Layers that the layout does not hold exactly are stored as nearly as it can: scales rounded, else the weights
  /// decoded and quantized anew. Without it the first such layer is an error.
  bool allow_loss = false;
  const Backend* backend = nullptr;  ///< For quantizing anew. Null: default_backend().
  Executor* executor = nullptr;      ///< Null: default_executor().
  Progress progress;
};

struct ConvertModelReport {
  struct Loss {
    std::string layer;
    std::string why;  ///< What the layout cannot hold.
    QuantSpec from, to;
  };
  std::size_t layers = 0;      ///< Quantized layers.
  std::vector<Loss> losses;    ///< Those that are not the same any more, in file order.
  std::size_t file_bytes = 0;  ///< Of model.safetensors.
  /// Files beside the weights that were not copied, each with the reason: "pytorch_model.bin (weights)".
  std::vector<std::string> left_out;
  std::vector<std::string> notes;  ///< Those of the Config, and of a GGUF input: a tokenizer that could not be written.
};

/// Reads the model `from` (of a GGUF file the layers in Q4_0, Q5_0, Q8_0, Q3_K, Q6_K and Q8_K count as quantized, the
/// others are decoded to F32) and writes the model `to`, which must not exist, as quantize_model does: one layer in
/// memory at a time, and nothing under the final name until all of it is there. Tensors of no quantized layer are
/// copied; GPTQ output gets a quantize_config.json too. Errors: unsupported names the first layer that loses something
/// and says what (without allow_loss), or whose shape the layout cannot hold at all; invalid_argument (`to` exists,
/// `from` has no quantized layer); not_found as quantize_model; those of Checkpoint and decode_quantized.
ConvertModelReport convert_model(const std::filesystem::path& from, const std::filesystem::path& to,
                                 const ConvertModelOptions& options);

}  // namespace nibble::inline NIBBLE_ABI::model
