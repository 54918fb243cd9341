#include "kernels/cuda/gemm_w8a8.h"

#include "kernels/cuda/gemm_w8a8.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

template <class Tile>
constexpr Int8TileShape describe_int8() {
  return {Tile::tokens, Tile::threads, Tile::stages, Tile::shared_bytes};
}

template <class Tile>
cudaError_t launch_int8(const Int8Arguments& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((args.x.tokens + Tile::tokens - 1) / Tile::tokens),
                  static_cast<unsigned>(round_up(args.w.rows, kGemmOutputs) / kGemmOutputs));
  return launch(gemm_w8a8_kernel<Tile>, grid, dim3(Tile::threads), Tile::shared_bytes, stream, args);
}

bool is_aligned_to_16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

}  // namespace

Int8TileShape int8_tile(std::size_t tokens, std::size_t shared_bytes) {
  return tokens <= Int8Tile32::tokens || shared_bytes < Int8Tile128::shared_bytes ? describe_int8<Int8Tile32>()
                                                                                  : describe_int8<Int8Tile128>();
}

int gemm_w8a8(const PackedInt8& w, const RoundedActivations& x, const OutlierColumns& outliers, void* y, DType y_type,
              std::size_t y_stride, const Int8TileShape& tile, cudaStream_t stream) {
  if (x.tokens == 0) return cudaSuccess;
  const std::size_t most_blocks = 65535;  // of the grid's second dimension
  if (w.rows == 0 || w.cols == 0 || w.cols > kMaxInt8Columns || w.rows > most_blocks * kGemmOutputs ||
      !is_aligned_to_16(w.codes) || !is_aligned_to_16(x.codes) || x.stride % 16 != 0 || x.stride < w.cols ||
      y_stride < w.rows || (y_type != DType::f32 && y_type != DType::f16 && y_type != DType::bf16))
    return cudaErrorInvalidValue;
  if (outliers.count != nullptr && (outliers.x.tokens != x.tokens || outliers.x.cols != w.cols))
    return cudaErrorInvalidValue;
  const Int8Arguments args{w, x, outliers, y, y_type, y_stride};
  switch (tile.tokens) {
    case Int8Tile32::tokens: return launch_int8<Int8Tile32>(args, stream);
    case Int8Tile128::tokens: return launch_int8<Int8Tile128>(args, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
