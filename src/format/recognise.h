// What users hand over in place of a model or a text, named for what it is, with what to do: a table of recognisers.
// A new one is a row in recognise.cpp.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::format {

/// Throws Error{not_found} for a path that is not there, Error{unsupported | corrupt_file} for a folder or file that is
/// known and is no model this library reads: a PEFT adapter, the root of a Hugging Face cache, PyTorch pickles, a
/// pointer of Git LFS, an empty file, … Passes over what it does not know.
void refuse_no_model(const std::filesystem::path& path);

/// The same for one file of tensors, a shard say.
void refuse_no_tensors(const std::filesystem::path& file);

/// The same for a file of text: a folder, a model, an archive, bytes that are no text.
void refuse_no_text(const std::filesystem::path& path);

}  // namespace nibble::inline NIBBLE_ABI::format
