// The kernel of blocks.h. One for each type of block and of result.
#pragma once

#include "kernels/cuda/blocks.h"
#include "kernels/cuda/canonical.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

/// A CUDA block is 32 runs of eight values by 8 rows.
inline constexpr unsigned kBlockRuns = 32;
inline constexpr unsigned kBlockRows = 8;

template <class Block, class Out>
NIBBLE_KERNEL(kBlockRuns* kBlockRows, 4)
void dequantize_blocks_kernel(const Block* blocks, std::size_t rows, std::size_t cols, Out* out, std::size_t stride) {
  static_assert(Block::group % kRun == 0, "a run must not cross groups");
  const std::size_t row = std::size_t{blockIdx.x} * kBlockRows + threadIdx.y;
  if (row >= rows) return;
  const Block* from = blocks + row * (cols / Block::size);
  const std::size_t step = std::size_t{gridDim.y} * kBlockRuns * kRun;
  for (std::size_t col = (std::size_t{blockIdx.y} * kBlockRuns + threadIdx.x) * kRun; col < cols; col += step) {
    float values[kRun];
    from[col / Block::size].template decode_run<kRun>(col % Block::size, values);
    store_run(out + row * stride + col, kRun, values);
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
