// Rounding activations to 8 bits on the device, one scale a token, with or without LLM.int8's outlier columns. Bit for
// bit what Backend::matmul_int8 and Backend::matmul (of LLM.int8 weights) do on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/canonical.h"
#include "nibble/core/dtype.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// A row-major matrix of activations on the device: [tokens, cols] of f32, f16 or bf16.
struct ActivationMatrix {
  const void* data = nullptr;
  DType type = DType::f32;
  std::size_t tokens = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;  ///< In elements.
};

/// The columns of x where some |value| ≥ threshold > 0, ascending, with no look at the host: `columns` gets them (room
/// for x.cols), `count` their number, `is_outlier` [x.cols] 1 for each and 0 for the rest. Returns the cudaError_t of
/// the launches.
int find_outlier_columns(const ActivationMatrix& x, float threshold, std::uint32_t* is_outlier, std::int32_t* columns,
                         std::int32_t* count, cudaStream_t stream);

/// Rounds each token: codes[t][c] = x·127/absmax, half to even, −127 … 127, [tokens, codes_stride]; zero in columns
/// from x.cols to codes_stride. absmax[t] (LlmInt8::fit) is the token's largest magnitude, 0 where there is none.
///
/// With `is_outlier`, of find_outlier_columns: those columns get 0, and absmax looks at the others only, as
/// Backend::matmul of LLM.int8 weights does. Else it is null.
///
/// `non_finite` gets 2^64−1 − (t·cols + c) of the first NaN or infinity, or 0; the token's results then mean nothing.
/// Returns the cudaError_t of the launches.
int round_activations(const ActivationMatrix& x, const std::uint32_t* is_outlier, std::int8_t* codes,
                      std::size_t codes_stride, float* absmax, unsigned long long* non_finite, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
