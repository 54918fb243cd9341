// GGUF's blocks (scheme/gguf_blocks.h) on a CUDA device.
//
//   auto w = nibble::cuda::pack(context, blocks, nibble::DType::f16, stream);   // a layer of a GGUF file, once
//   nibble::cuda::matmul(context, x, *w, y, scratch.span(), stream);            // every token
//
// The library is nibble::cuda.
#pragma once

#include "nibble/cuda/device.h"
#include "nibble/matrix/block_matrix.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// Weights for matmul(). Blocks of an exact_spec (Q4_0, Q5_0, Q8_0, Q3_K, Q6_K, Q8_K) become quantized weights of that
/// spec, value for value, and keep about their size. The others, which no spec stands for, are decoded on the
/// device, or here where the device has no codebooks (decodes_on_device), to unquantized weights of `type` (f32, f16 or
/// bf16; rounded once, half to even; what f16 cannot hold becomes infinite); plain floats are uploaded in their own
/// type. Allocates, for the others also as much as the blocks take until they are decoded, and waits for the stream.
/// Errors: corrupt_file (as BlockMatrix::validate, with `name`), unsupported (another `type`), CudaError.
MatrixPtr pack(const Context& context, const BlockMatrix& blocks, DType type, cudaStream_t stream,
               std::string_view name = "weights");

/// Decodes coded blocks that lie on the device as in a BlockMatrix, rows without gaps, aligned to 4 bytes: bit for bit
/// what decode_blocks() gives, rounded once to the type of `out`, but for the bits of a NaN. Errors: shape_mismatch
/// (out's columns are no whole number of blocks, or its stride is less), invalid_argument (the alignment), unsupported
/// (plain floats; another type of out), CudaError.
void dequantize(const Context& context, BlockType type, const void* blocks, const MutableDeviceMatrix& out,
                cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
