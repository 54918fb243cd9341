// The search behind Q4_K and Q6_K.
#pragma once

#include "nibble/scheme/gguf_blocks.h"

namespace nibble::inline NIBBLE_ABI {

/// encode_block for one super-block of 256 finite values; false if a scale does not fit f16.
bool encode_q4_k(const float* values, blocks::Q4_K& block);
bool encode_q6_k(const float* values, blocks::Q6_K& block);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/scheme/impl/gguf_k_encode_inl.h"
#endif
