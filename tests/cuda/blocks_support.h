// Blocks of every type that GGUF knows.
#pragma once

#include "nibble/matrix/block_matrix.h"
#include "tests/support/random_blocks.h"
#include "tests/support/random_data.h"

namespace nibble::cuda_test {

/// Small values, in blocks of any type: random ones of those that are only read.
inline BlockMatrix blocks_of(BlockType type, std::size_t rows, std::size_t cols) {
  if (!can_encode(type)) return testing_support::random_blocks(type, rows, cols, 71);
  const auto w = testing_support::normal(rows * cols, 71, 0.1f);
  return BlockMatrix::encode(MatrixView<const float>(w.data(), rows, cols), type, "w", serial_executor());
}

}  // namespace nibble::cuda_test
