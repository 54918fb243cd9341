// The files beside the weights: tokenizers, chat templates, code, processors, licences, whatever there is.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Copies all files of a model directory into another but those that speak of its weights: weights in any format, their
/// indexes, configurations of their quantization, and config.json, which the caller writes. Folders are copied, too,
/// unless they hold weights, which makes them models of their own. A link to a file is copied as that file (caches are
/// made of such links). Returns what stayed behind without being replaced by something written anew, as
/// "pytorch_model.bin (weights)". Error{io}.
std::vector<std::string> copy_side_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace nibble::inline NIBBLE_ABI::model
