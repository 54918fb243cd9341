// What scheme/gguf_blocks.h declares.
#pragma once

#include "nibble/scheme/gguf_blocks.h"

#include <cstring>

#include "nibble/scheme/gguf_encode.h"
#include "nibble/scheme/impl/gguf_fit_blocks.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

/// What each value of a block counts: its share of the mean weight, and 1/1024 more, so that a value whose input never
/// was anything comes back as something like itself.
inline void share_out(const float* weights, std::size_t n, float* to) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(weights[i]);
  const double mean = sum / static_cast<double>(n);
  constexpr double kLeast = 1.0 / 1024;
  for (std::size_t i = 0; i < n; ++i)
    to[i] = static_cast<float>(mean > 0 ? static_cast<double>(weights[i]) / mean + kLeast : 1.0);
}

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
    bool fits = false;
    if constexpr (requires { blocks::encode(values, block); }) fits = blocks::encode(values, block);
    else if constexpr (fit::Fitted<decltype(block)>) fits = fit::encode(values, fit::Ones(), block);
    std::memcpy(to, &block, sizeof(block));
    return fits;
  });
}

NIBBLE_INLINE bool encode_block(BlockType type, const float* values, const float* weights, std::byte* to) {
  return visit_block(type, [&](auto block) {
    using Block = decltype(block);
    if constexpr (fit::Fitted<Block>) {
      float shares[Block::size];
      detail::share_out(weights, Block::size, shares);
      const bool fits = fit::encode(values, static_cast<const float*>(shares), block);
      std::memcpy(to, &block, sizeof(block));
      return fits;
    } else {
      return encode_block(type, values, to);
    }
  });
}

}  // namespace nibble::inline NIBBLE_ABI
