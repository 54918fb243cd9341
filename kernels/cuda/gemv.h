// The tier of few tokens: products of a canonical matrix with 1 to 8 vectors, the weights decoded on the way.
//
// The matrix is read once, whatever the number of tokens, and little else is: this is bound by memory. A warp owns two
// rows and a lane 32 of every 1024 columns, whose codes are `bits` words of 32 bits:
//
//   bits 4, 3, 2   lane l has columns 32l … 32l+31: one 16-byte load, three of 4 bytes, one of 8 bytes
//   bits 8         lane l has columns 16l … 16l+15 and 512 later again: two 16-byte loads, each of whole sectors
//
// Activations are staged in shared memory as fp32, so that one kernel serves every activation type. Double-quantized
// scales are expanded where a group begins. Every sum is formed in one fixed order: results depend neither on the
// number of tokens nor on the device.
#pragma once

#include <cstddef>

#include "kernels/cuda/canonical.h"
#include "nibble/core/dtype.h"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr std::size_t kMaxGemvTokens = 8;

/// Rows of codes must begin at multiples of this: it divides the pitch. Rows of canonical bytes qualify where their
/// number is a multiple; else they are uploaded further apart. Of the bytes between, no value matters.
inline constexpr std::size_t kGemvPitch = 16;

/// Whether gemv() takes matrices of this spec: 2, 3, 4 or 8 bits with scale and zero point (|zero point| ≤ 2^22, as
/// every quantizer gives), LLM.int8 rows (their activations are not rounded here), NF4 and FP4.
inline bool has_gemv(const QuantSpec& spec) {
  if (spec.is_codebook()) return spec.bits == 4;
  return spec.bits <= 4 || spec.bits == 8;
}

/// y[t][o] = Σ over c of x[t][c]·w[o][c], for `tokens` ≤ kMaxGemvTokens rows. x is [tokens, w.cols] of x_type, y is
/// [tokens, w.rows] of y_type (f32, f16 or bf16 each), rows x_stride and y_stride elements apart. Act-order matrices
/// need no rearranged activations: the group of each column is looked up, which is slower. Codes must be canonical.
/// Returns the cudaError_t of the launch.
int gemv(const CanonicalMatrix& w, const void* x, DType x_type, std::size_t x_stride, std::size_t tokens, void* y,
         DType y_type, std::size_t y_stride, cudaStream_t stream);

/// The bound on gemv's error before y is rounded to its type: |error| ≤ gemv_relative_error·Σ|x·w|, w as dequantized.
///
/// A lane adds the products of a piece (32 columns; 16 of 8 bits) by fused multiply-add from zero: n roundings; a
/// piece's sum enters the lane's by one more: as many as it has pieces, p; then 32 lanes are added in a tree: 5. Either
/// the scale multiplies a piece's sum, where the dequantized weight would have been rounded once, or it was multiplied
/// in before, as there: 1. So a product passes through at most n + p + 6 roundings of relative size ε = 2⁻²⁴, and
/// (1+ε)^k − 1 ≤ 1.01·k·ε for k < 10⁵.
constexpr double gemv_relative_error(std::size_t cols, int bits) {
  const std::size_t steps = (cols + 1023) / 1024;
  const std::size_t piece = bits == 8 ? 16 : 32, pieces = steps * (32 / piece);
  return 1.01 * static_cast<double>(piece + pieces + 6) * 0x1p-24;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
