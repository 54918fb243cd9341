// Blocks of every type that GGUF knows.
#pragma once

#include <cstring>

#include "nibble/matrix/block_matrix.h"
#include "tests/support/random_data.h"

namespace nibble::cuda_test {

/// Small values, in blocks of any type: those that cannot be encoded get small bytes and ordinary scales.
inline BlockMatrix blocks_of(BlockType type, std::size_t rows, std::size_t cols) {
  const auto w = testing_support::normal(rows * cols, 71, 0.1f);
  if (can_encode(type))
    return BlockMatrix::encode(MatrixView<const float>(w.data(), rows, cols), type, "w", serial_executor());
  BlockMatrix m = BlockMatrix::allocate(type, rows, cols);
  auto* bytes = m.blocks.writable<std::uint8_t>();
  for (std::size_t i = 0; i < m.blocks.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 % 251);
  for (std::size_t at = 0; at < m.blocks.size(); at += block_bytes(type)) {
    const f16 half(0.01f);
    const float whole = 0.01f;
    if (type == BlockType::q8_k) std::memcpy(bytes + at, &whole, 4);
    else {
      std::memcpy(bytes + at, &half, 2);
      if (type == BlockType::q5_k) std::memcpy(bytes + at + 2, &half, 2);
    }
  }
  return m;
}

}  // namespace nibble::cuda_test
