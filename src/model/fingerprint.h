// What tells one model from another, for work that goes on with what was made of it before.
#pragma once

#include <filesystem>
#include <string>

#include "nibble/format/checkpoint.h"

namespace nibble::inline NIBBLE_ABI::model {

/// A hash of the configuration, and of each tensor's name, type, shape, and the bytes at both its ends: of a GGUF file
/// as it stores them, for decoding all of it would take long. `checkpoint` is the opened model `from`.
std::string fingerprint(const std::filesystem::path& from, const Checkpoint& checkpoint);

}  // namespace nibble::inline NIBBLE_ABI::model
