// Products of 8-bit weights with activations rounded to 8 bits (activations.h), on the tensor cores' integers.
//
// Sums are exact. With outlier columns (LLM.int8, Dettmers et al. 2022, section 3.2) the activations' codes are zero
// there, and those columns are added in fp32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/gemm_layout.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// Weights as PackedInt8Layout places them, on the device. Does not own.
struct PackedInt8 {
  std::size_t rows = 0;                  ///< Outputs.
  std::size_t cols = 0;                  ///< At most kMaxInt8Columns.
  const std::uint32_t* codes = nullptr;  ///< PackedInt8Layout::words(), aligned to 16 bytes.
  const float* multipliers = nullptr;    ///< [rows] What a code is multiplied by.
};

/// round_activations's results. codes is aligned to 16 bytes, and stride a multiple of 16; codes past the columns are
/// 0.
struct RoundedActivations {
  const std::int8_t* codes = nullptr;
  std::size_t stride = 0;
  const float* absmax = nullptr;  ///< [tokens]
  std::size_t tokens = 0;
};

/// Columns that are kept in floating point. `columns` and `count` are find_outlier_columns's, on the device: the host
/// need not know how many there are.
struct OutlierColumns {
  ActivationMatrix x;  ///< Before rounding.
  const std::int32_t* columns = nullptr;
  const std::int32_t* count = nullptr;  ///< Null: there are no outliers.
};

/// Tokens and threads of a block, the stages of its pipeline and their bytes of shared memory.
struct Int8TileShape {
  unsigned tokens, threads, stages;
  std::size_t shared_bytes;
};
/// The tiles there are, by tokens.
inline constexpr unsigned kInt8Tiles[] = {32, 128};
/// The tile for so many tokens where a block may have `shared_bytes` (64 KiB on sm_75, more on newer ones).
Int8TileShape int8_tile(std::size_t tokens, std::size_t shared_bytes);

/// y[t][o] = (multiplier[o]·S)·(absmax[t]/127), S = Σ over c of code_x[t][c]·code_w[o][c] exact, then for each outlier
/// column in order y += x[t][c]·(code_w[o][c]·multiplier[o]), each operation rounded: bit for bit the CPU's, where y is
/// f32; else rounded once more. y is [tokens, w.rows] of f32, f16 or bf16, rows y_stride elements apart. Runs from
/// sm_75 on, which builds each product of smaller ones. Returns the cudaError_t of the launch: cudaErrorInvalidValue
/// for what is not as said here.
int gemm_w8a8(const PackedInt8& w, const RoundedActivations& x, const OutlierColumns& outliers, void* y, DType y_type,
              std::size_t y_stride, const Int8TileShape& tile, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
