// GPTQ's solution of one block of columns on the device (solver/gptq.h tells the method).
//
// All arrays are columns first, rows of the weights next to each other, so that a thread owns a row and a warp reads
// 128 bytes at once. Columns lie in reverse order of solving: position i is column cols − 1 − i. So the factor of the
// reversed Hessian, H' = L·Lᵀ, serves as it comes: U_ij = (L⁻ᵀ)_{ji} of those columns, one row of U after another.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/scheme/scale.h"

using cudaStream_t = struct CUstream_st*;  // as cuda_runtime.h has it

namespace nibble::cuda {

/// The most positions of a step.
inline constexpr std::size_t kMostGptqColumns = 256;

/// Positions begin … end−1 of a matrix, solved one after another. Every position up to the end of the groups that begin
/// here is up to date. No group begins here and ends between `end` and its own end unless it begins at `begin`.
struct GptqStep {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t begin = 0, end = 0;
  std::size_t group_size = 0;  ///< Positions i with the same i / group_size share scale and zero point.
  int bits = 4;
  bool symmetric = true;
  ScaleType scale_type = ScaleType::f16;
};

/// On the device. [a][rows] is a columns-first array.
struct GptqBuffers {
  const float* weights = nullptr;       ///< [cols][rows]
  const float* inverse = nullptr;       ///< [cols][cols]: U_ij at (cols−1−i)·cols + cols−1−j.
  std::uint8_t* codes = nullptr;        ///< [cols][rows], in the weights' order.
  float* scales = nullptr;              ///< [groups][rows], as their type holds them; infinite where it cannot.
  std::int32_t* zero_points = nullptr;  ///< [groups][rows]
  float* errors = nullptr;              ///< [end − begin][rows], e_i at end−1−i: what later columns make up for.
  double* losses = nullptr;             ///< [rows], to which Σe² is added.
};

/// q_i, e_i = (w_i − q_i)/U_ii and w_j −= e_i·U_ij for j within the step. Each row's arithmetic is in one fixed order.
/// Shared memory: 256 bytes a position. Returns the cudaError_t of the launch; cudaErrorInvalidValue for a step that is
/// empty or longer than kMostGptqColumns.
int gptq_update(const GptqStep& step, const GptqBuffers& buffers, cudaStream_t stream);

}  // namespace nibble::cuda
