// What a configuration says, held against the tensors that there are: before anything of a stated size is allocated,
// and before a model is written that others would read otherwise.
#pragma once

#include <filesystem>

#include "nibble/format/checkpoint.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Error{not_found | shape_mismatch | corrupt_file} names the field or tensor where
///   - the last of num_hidden_layers is not there, or there are fewer tensors than experts;
///   - head_dim or vocab_size is not what a tensor has, or, of a quantized one, more than its bytes can hold;
///   - a bias is stored that the configuration says there is not, or the other way round;
///   - a stored head differs from the embedding that it is said to be tied to: some readers take one, some the other.
/// Nothing is said of a checkpoint without blocks under their usual names.
void check_config(const Config& config, const Checkpoint& checkpoint);

/// Error{not_found | invalid_argument} says what `model` is where it is neither a model's directory nor a GGUF file.
void require_directory(const std::filesystem::path& model);

}  // namespace nibble::inline NIBBLE_ABI::model
