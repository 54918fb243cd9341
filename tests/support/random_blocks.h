// Matrices of GGUF's blocks that no encoder made.
#pragma once

#include <cstring>
#include <random>
#include <type_traits>

#include "nibble/matrix/block_matrix.h"

namespace nibble::testing_support {

/// Blocks of random bytes whose scales and minima are finite, of either sign: up to 0.2. Floats are such numbers.
inline BlockMatrix random_blocks(BlockType type, std::size_t rows, std::size_t cols, unsigned seed) {
  BlockMatrix m = BlockMatrix::allocate(type, rows, cols);
  std::mt19937 random(seed);
  auto* bytes = m.blocks.writable<std::uint8_t>();
  for (std::size_t i = 0; i < m.blocks.size(); ++i) bytes[i] = static_cast<std::uint8_t>(random());
  visit_block(type, [&](auto block) {
    for (std::size_t at = 0; at < m.blocks.size(); at += sizeof block) {
      std::memcpy(static_cast<void*>(&block), bytes + at, sizeof block);
      const auto number = [&](auto& to) {
        to = std::remove_reference_t<decltype(to)>(static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 5000);
      };
      if constexpr (requires { block.d; }) number(block.d);
      if constexpr (requires { block.m; }) number(block.m);
      if constexpr (requires { block.dmin; }) number(block.dmin);
      if constexpr (requires { block.value; }) number(block.value);
      if constexpr (requires { block.e; }) block.e = static_cast<std::uint8_t>(118 + random() % 8);
      if constexpr (std::is_same_v<decltype(block), blocks::IQ1_M>)  // the upper bits of its scale
        block.scales[7] = static_cast<std::uint8_t>((block.scales[7] & 0x0f) | 0x30);
      std::memcpy(bytes + at, static_cast<const void*>(&block), sizeof block);
    }
  });
  return m;
}

}  // namespace nibble::testing_support
