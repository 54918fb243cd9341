// Any model as a Checkpoint: what commands that read whole models open them with.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nibble/format/checkpoint.h"

namespace nibble::inline NIBBLE_ABI::model {

/// How a GGUF file's quantized tensors are shown.
enum class GgufView {
  decoded,  ///< As F32: a dense model, to be quantized anew.
  exact,    ///< Linear layers of the blocks whose type has an exact canonical form (block_matrix.h) as quantized layers
            ///< in nibble's layout, so that decode_quantized reads them; the rest as F32.
};

/// A model directory or .safetensors file as Checkpoint::open gives it, or a GGUF file with Hugging Face's names and
/// order of rows. Errors beside those: unsupported names a tensor that this library does not decode or that has no
/// place in the architecture.
Checkpoint open_checkpoint(const std::filesystem::path& path, GgufView view);

/// "180 tensors of Q5_0, 30 of Q4_K": the types that a GGUF file's blocks' linear layers are quantized in; empty for a
/// file of floats, and for a path that is no GGUF file.
std::string gguf_quantization(const std::filesystem::path& path);
/// What a report says where such a file is quantized; empty for others.
std::string requantization_note(const std::filesystem::path& path);

}  // namespace nibble::inline NIBBLE_ABI::model
