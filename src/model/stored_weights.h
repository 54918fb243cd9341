// The weights that a configuration promises, held against those that a checkpoint has: what reads or writes a whole
// model looks here first, so that a model it only half recognises is an error and not a result.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "nibble/format/checkpoint.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::model {

/// The layers that are quantized, in file order. Error{unsupported} for one that is in a way nothing decodes
/// (layout_of).
std::vector<std::string> quantized_layers(const Checkpoint& checkpoint);

/// Error{not_found} counts the promised weights that are missing, names the first, and says what lies there instead: a
/// prefix that all names carry, say, or the names that nothing asked for. Error{unsupported} for a weight that is
/// quantized in a way nothing decodes (layout_of), or has a tensor beside it that nothing reads. Error{shape_mismatch}
/// for a linear layer of floats that has another shape. `from` is for messages.
/// Returns the quantized layers in file order, whether promised or not; promised ones that are not listed are floats.
std::vector<std::string> check_stored_weights(const Checkpoint& checkpoint, const Config& config,
                                              const std::string& from);

/// Error{invalid_argument} says which of the layers are quantized already and what to do, unless there are none.
void refuse_quantized(const std::vector<std::string>& quantized, const std::string& from);

}  // namespace nibble::inline NIBBLE_ABI::model
