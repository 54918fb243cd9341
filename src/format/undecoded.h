// Weights that are quantized in a way nothing here decodes. They show by the tensors beside them, by the type of their
// codes, or by the method that the configuration names; all who read a weight ask here before they take it for numbers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "nibble/format/quantized_tensors.h"

namespace nibble::inline NIBBLE_ABI::format {

/// The layer that this tensor is a part of, by its name; nothing for a name that no way to quantize uses.
std::optional<std::string> layer_of_part(std::string_view tensor);

/// Whether all that the source has of the layer is its weight and bias, so that no layout need be looked for. False
/// where the source does not know its names.
bool is_only_weight(const TensorSource& source, const std::string& layer);

/// Error{unsupported} names the tensor, how it is quantized and what the configuration calls it, unless `held` (the
/// layer's layout; nothing if no layout holds it) accounts for every part of the layer that bears on its weight.
void check_decoded(const TensorSource& source, const std::string& layer, std::optional<CheckpointLayout> held);

/// The same for a tensor that is to be read as plain numbers: nor may it be the codes of a layer that a layout holds.
void check_plain_weight(const TensorSource& source, const std::string& tensor);

}  // namespace nibble::inline NIBBLE_ABI::format
