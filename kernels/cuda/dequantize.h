// Decoding canonical matrices on the device: every scheme of QuantSpec, bit for bit what Backend::dequantize_to gives.
#pragma once

#include <cstddef>

#include "kernels/cuda/canonical.h"
#include "nibble/core/dtype.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// out[r][c] = the weight at row first_row + r, column c, for r < rows and all of q's columns; `out` is [rows, q.cols]
/// of `type` (f32, f16 or bf16), its rows `stride` elements apart. Each value is rounded to `type` once, half to even.
///
/// A thread decodes eight columns at a time; results leave in 16-byte stores where `out` and `stride` are multiples of
/// 16 bytes. Bytes moved: the codes and scales once, the results once. Returns the cudaError_t of the launch.
int dequantize(const CanonicalMatrix& q, std::size_t first_row, void* out, DType type, std::size_t rows,
               std::size_t stride, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
