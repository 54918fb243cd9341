// Every architecture's table, each in the file of its name. A new one is such a file, and its name in both lists here.
#pragma once

#include "nibble/model/architecture.h"

namespace nibble::inline NIBBLE_ABI::model::tables {

extern const Architecture llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3, glm4, mixtral, qwen3_moe;

/// Where several share the architecture of their GGUF files, the first is what a file without a sliding window is
/// taken for.
inline constexpr const Architecture* kAll[] = {&llama,  &mistral, &qwen2, &qwen3,   &gemma2,
                                               &gemma3, &phi3,    &glm4,  &mixtral, &qwen3_moe};

}  // namespace nibble::inline NIBBLE_ABI::model::tables
