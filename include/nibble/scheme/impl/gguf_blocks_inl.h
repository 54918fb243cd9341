// What scheme/gguf_blocks.h declares.
#pragma once

#include "nibble/scheme/gguf_blocks.h"

#include <cstring>

#include "nibble/scheme/gguf_encode.h"
#include "nibble/scheme/impl/gguf_k_encode.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

using blocks::encode;
inline bool encode(const float* x, blocks::Q4_K& b) { return encode_q4_k(x, b); }
inline bool encode(const float* x, blocks::Q6_K& b) { return encode_q6_k(x, b); }

}  // namespace detail

NIBBLE_INLINE std::optional<BlockType> parse_block_type(std::string_view name) {
  const auto upper = [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; };
  for (const BlockType type : kBlockTypes) {
    const std::string_view known = name_of(type);
    bool same = known.size() == name.size();
    for (std::size_t i = 0; same && i < name.size(); ++i) same = upper(name[i]) == known[i];
    if (same) return type;
  }
  return std::nullopt;
}

NIBBLE_INLINE void decode_blocks(BlockType type, const std::byte* from, std::size_t count, float* to) {
  visit_block(type, [&](auto block) {
    using Block = decltype(block);
    for (std::size_t i = 0; i < count; i += Block::size, from += sizeof(Block)) {
      std::memcpy(&block, from, sizeof(Block));
      blocks::decode(block, to + i);
    }
  });
}

NIBBLE_INLINE bool encode_block(BlockType type, const float* values, std::byte* to) {
  return visit_block(type, [&](auto block) {
    if constexpr (requires { detail::encode(values, block); }) {
      const bool fits = detail::encode(values, block);
      std::memcpy(to, &block, sizeof(block));
      return fits;
    } else {
      return false;
    }
  });
}

}  // namespace nibble::inline NIBBLE_ABI
