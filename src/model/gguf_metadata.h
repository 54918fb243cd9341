// What a GGUF file says of a model's shape, under the names that llama.cpp reads.
#pragma once

#include <string>
#include <vector>

#include "nibble/format/gguf.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Where llama.cpp does with the window what the model does, or nothing.
bool states_window(const Config& config);
/// `type`: of most weights.
GgufMetadata model_metadata(const Config& config, const std::string& name, BlockType type);
/// What llama.cpp divides each frequency by where the scaling is not the same for all; else nothing.
std::vector<float> rope_factors(const Config& config);

}  // namespace nibble::inline NIBBLE_ABI::model
