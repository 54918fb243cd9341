// Decoding GGUF's blocks on the device, bit for bit what decode_blocks() gives.
#pragma once

#include <cstddef>

#include "nibble/core/dtype.h"
#include "nibble/scheme/gguf_blocks.h"

using cudaStream_t = struct CUstream_st*;  // as cuda_runtime.h has it

namespace nibble::inline NIBBLE_ABI::cuda {

/// out[r][c] = the value at row r, column c of a matrix of blocks as BlockMatrix holds it: rows of cols /
/// block_size(type) blocks, one row after another, from `blocks` on, which is aligned to 4 bytes. `out` is [rows, cols]
/// of `out_type` (f32, f16 or bf16), its rows `stride` ≥ cols elements apart. Each value is rounded to that type once,
/// half to even.
///
/// A thread decodes eight values, which always share their scales; results leave in 16-byte stores where `out` and
/// `stride` are multiples of 16 bytes. Returns the cudaError_t of the launch; cudaErrorInvalidValue for columns that
/// are no whole number of blocks, another out_type, plain floats, which are not coded, and types that the host alone
/// decodes (decodes_on_device).
int dequantize_blocks(BlockType type, const void* blocks, std::size_t rows, std::size_t cols, void* out, DType out_type,
                      std::size_t stride, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
