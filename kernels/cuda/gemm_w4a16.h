// Products of 4-bit weights with activations of 16 bits on tensor cores: for more tokens than gemv.h takes, and fewer
// than make it worth dequantizing the whole matrix.
//
// The codes are decoded in registers to the activations' type, without scale: integers code − zero_point are exact
// there and values of a codebook rounded once. Products are summed in fp32; the scale multiplies the sum of 64 (or 32)
// columns, in fp32, so that no scale is rounded or overflows where activations are fp16.
//
// Work is a list of steps (64 columns of one tile of results), cut into one equal run for each block (Stream-K, Osama
// et al. 2023). Where a tile is cut, its blocks add their sums in the order of their columns, last to first, each when
// the one before has released the tile's lock: results do not depend on timing. Blocks wait only for blocks of lower
// index.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gemm_layout.h"
#include "nibble/core/dtype.h"
#include "nibble/matrix/quant_spec.h"

using cudaStream_t = struct CUstream_st*;  // as cuda_runtime.h has it

namespace nibble::inline NIBBLE_ABI::cuda {

/// Weights as PackedLayout places them, on the device. Plain data; does not own. All pointers aligned to 16 bytes.
struct PackedW4 {
  std::size_t rows = 0;  ///< Outputs.
  std::size_t cols = 0;  ///< A multiple of 8.
  bool is_codebook = false;
  const std::uint32_t* codes = nullptr;  ///< PackedLayout::words().
  /// Columns that share parameters: 32 or a multiple of 64. Rows of parameters: of columns 0 …, group …; the last
  /// column is the padded one.
  std::size_t group = 0;
  /// f32, f16 or bf16: [rows of parameters][padded_rows()], each at scale_place(row).
  const void* scales = nullptr;
  ScaleType scale_type = ScaleType::f16;
  const std::uint8_t* zero_points = nullptr;  ///< Likewise at zero_point_place(row), each 0 … 15. Null: all are 8.
  const float* codebook = nullptr;            ///< 16 values, |value| ≤ 65504; codebook schemes only.
};

/// Rows of results a block computes, its threads, the stages of its pipeline and their bytes of shared memory.
struct GemmTile {
  unsigned tokens, threads, stages;
  std::size_t shared_bytes;
};
/// The tiles there are, by tokens.
inline constexpr unsigned kW4Tiles[] = {16, 32, 64, 128};
constexpr unsigned w4a16_tile_tokens(std::size_t tokens) {
  return tokens <= 16 ? 16 : tokens <= 32 ? 32 : tokens <= 64 ? 64 : 128;
}
GemmTile w4a16_tile(std::size_t tokens);

/// Whether the kernel runs: fp16 from sm_75 on (there without asynchronous copies), bf16 from sm_80 on.
constexpr bool has_gemm_w4a16(DType activations, int compute_capability) {
  return (activations == DType::f16 && compute_capability >= 75) ||
         (activations == DType::bf16 && compute_capability >= 80);
}

/// How many blocks of the kernel that takes so many tokens one multiprocessor of the current device runs at once.
/// Returns the cudaError_t of the question.
int w4a16_resident_blocks(std::size_t tokens, DType activations, bool is_codebook, int* blocks);

/// How a product is cut. `blocks` is what the device runs at once (multiprocessors × w4a16_resident_blocks); fewer for
/// small ones.
struct GemmPlan {
  unsigned tile_tokens = 0;  ///< One of kW4Tiles.
  unsigned token_tiles = 0;
  unsigned steps_a_tile = 0;  ///< Of 64 columns.
  unsigned steps = 0;         ///< Of all tiles.
  unsigned steps_a_block = 0;
  unsigned blocks = 0;
  /// Of the workspace: locks, which must be zero before the first launch and are zero after each, then sums.
  std::size_t lock_bytes = 0, workspace_bytes = 0;
  friend bool operator==(const GemmPlan&, const GemmPlan&) = default;
};
/// With no blocks, which gemm_w4a16 refuses, where the product is empty or has 2³¹ steps or more.
GemmPlan plan_gemm_w4a16(std::size_t tokens, std::size_t rows, std::size_t cols, unsigned blocks);

/// y[t][o] = Σ over c of x[t][c]·w[o][c]. x is [tokens, w.cols] of f16 or bf16, aligned to 16 bytes, rows x_stride
/// elements apart, a multiple of 8. y is [tokens, w.rows] of f32, f16 or bf16. The plan is plan_gemm_w4a16's for this
/// shape; workspace has plan.workspace_bytes, aligned to 16, and serves one launch at a time. Returns the cudaError_t
/// of the launch: cudaErrorInvalidValue for what is not as said here.
int gemm_w4a16(const PackedW4& w, const void* x, DType x_type, std::size_t x_stride, std::size_t tokens, void* y,
               DType y_type, std::size_t y_stride, const GemmPlan& plan, void* workspace, cudaStream_t stream);

/// The bound on the error before y is rounded to its type: |error| ≤ gemm_w4a16_relative_error·Σ|x·w|, w as dequantized
/// to fp32 by the CPU.
///
/// A matrix product of depth 16 adds 16 exact products and a sum of before. Tensor cores align these 17 to the largest
/// and cut off what lies below its 23 fraction bits (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores",
/// allow for more bits, never fewer), then cut the result: at most 18 cuts of relative size 2⁻²³ of Σ|products|. A
/// group of 64 columns takes four. The scale enters by a fused multiply-add per 64 (or 32) columns, p of them, and the
/// blocks' sums by at most p additions: 2p roundings of 2⁻²⁴, plus one of the dequantized weight. A codebook's value is
/// rounded to the activations' type: 2⁻¹¹ or 2⁻⁸ (a value below 2⁻¹⁴ keeps an absolute 2⁻²⁵ in fp16; codebooks have
/// none but 0).
constexpr double gemm_w4a16_relative_error(std::size_t cols, std::size_t group, bool is_codebook, DType activations) {
  const std::size_t parts = round_up(cols, kGemmDepth) / (group < kGemmDepth ? group : kGemmDepth);
  const double sums = 4 * 18 * 0x1p-23 + (2 * static_cast<double>(parts) + 1) * 0x1p-24;
  const double value = !is_codebook ? 0.0 : activations == DType::f16 ? 0x1p-11 : 0x1p-8;
  return 1.01 * (sums + value);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
