#include "kernels/cuda/blocks.h"

#include <algorithm>

#include "kernels/cuda/blocks.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

template <class Block, class Out>
int run(const void* blocks, std::size_t rows, std::size_t cols, void* out, std::size_t stride, cudaStream_t stream) {
  constexpr std::size_t columns = kBlockRuns * kRun, most_y = 65535;
  const dim3 grid(static_cast<unsigned>((rows + kBlockRows - 1) / kBlockRows),
                  static_cast<unsigned>(std::min(most_y, (cols + columns - 1) / columns)));
  return launch(dequantize_blocks_kernel<Block, Out>, grid, dim3(kBlockRuns, kBlockRows), 0, stream,
                static_cast<const Block*>(blocks), rows, cols, static_cast<Out*>(out), stride);
}

template <class Block>
int dispatch(const void* blocks, std::size_t rows, std::size_t cols, void* out, DType out_type, std::size_t stride,
             cudaStream_t stream) {
  switch (out_type) {
    case DType::f32: return run<Block, float>(blocks, rows, cols, out, stride, stream);
    case DType::f16: return run<Block, f16>(blocks, rows, cols, out, stride, stream);
    case DType::bf16: return run<Block, bf16>(blocks, rows, cols, out, stride, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

int dequantize_blocks(BlockType type, const void* blocks, std::size_t rows, std::size_t cols, void* out, DType out_type,
                      std::size_t stride, cudaStream_t stream) {
  if (is_float(type) || cols % block_size(type) != 0 || stride < cols) return cudaErrorInvalidValue;
  if (rows == 0 || cols == 0) return cudaSuccess;
  return visit_block(type, [&](auto block) -> int {
    using Block = decltype(block);
    if constexpr (Block::size > 1 && !is_host_only<Block>)
      return dispatch<Block>(blocks, rows, cols, out, out_type, stride, stream);
    else return cudaErrorInvalidValue;
  });
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
