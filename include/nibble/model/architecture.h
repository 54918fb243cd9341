// What the blocks of a model are made of, by name.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::model {

/// The linear layers of block `index`, in the order of the forward pass: "model.layers.0.self_attn.q_proj", …
std::vector<std::string> block_linear_names(std::size_t index);
/// Whether a tensor is the weight of such a layer.
bool is_block_linear_weight(std::string_view tensor);

}  // namespace nibble::inline NIBBLE_ABI::model
