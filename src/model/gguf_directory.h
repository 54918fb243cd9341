// What a model directory holds beside the weights, of a directory or made from a GGUF file's metadata.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::model {

/// The text of config.json: the directory's own, or one that says what the GGUF file's metadata does.
/// Error{unsupported} where config.json has no word for it (rotary factors that are not Llama 3's).
std::string config_json(const std::filesystem::path& model);

struct SideFiles {
  std::vector<std::string> left_out;  ///< As copy_side_files.
  std::vector<std::string> notes;     ///< On what could not be written.
};

/// Writes into `to` what copy_side_files copies; of a GGUF file its tokenizer, as tokenizer.json or tokenizer.model,
/// and tokenizer_config.json with the chat template.
SideFiles write_side_files(const std::filesystem::path& model, const std::filesystem::path& to);

}  // namespace nibble::inline NIBBLE_ABI::model
