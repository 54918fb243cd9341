// GPTQ's solution of one block of columns on the device (solver/gptq.h tells the method).
//
// All arrays are columns first, rows of the weights next to each other, so that a thread owns a row and a warp reads
// 128 bytes at once. Columns lie in reverse order of solving: position i is column cols − 1 − i. So the factor of the
// reversed Hessian, H' = L·Lᵀ, serves as it comes: U_ij = (L⁻ᵀ)_{ji} of those columns, one row of U after another.
// T is float or double; grids are floats in both.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/solver/gptq_grid.h"

using cudaStream_t = struct CUstream_st*;  // as cuda_runtime.h has it

namespace nibble::inline NIBBLE_ABI::cuda {

/// The most positions of a step.
inline constexpr std::size_t kMaxGptqColumns = 256;

/// When a group's grid is fitted.
enum class GptqGrids : std::uint8_t {
  given,     ///< Before all steps, by gptq_fit().
  at_group,  ///< Where the group's first position is solved, to the weights as they are then.
  at_step,   ///< At the begin of the step that its first position is in: to weights that the step has not updated.
};

/// Positions begin … end−1 of a matrix, solved one after another. Every position of the groups that begin here is up to
/// date with all steps before; with at_group, none of these groups ends beyond `end` unless it begins at `begin`.
struct GptqStep {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t begin = 0, end = 0;
  std::size_t groups = 1;
  GptqGrids grids = GptqGrids::at_group;
  bool grid_search = false;
  GridRule rule = {};
};

/// On the device. [a][rows] is a columns-first array.
template <class T>
struct GptqBuffers {
  const T* weights = nullptr;  ///< [cols][rows]
  const T* inverse = nullptr;  ///< [cols][cols]: U_ij at (cols−1−i)·cols + cols−1−j.
  const T* drift = nullptr;    ///< GPTAQ's P, where U_ij lies; null: none.
  /// The group of each position, and the positions of each group in order of solving: those of group g begin at
  /// members[first_member[g]]. With fitting in steps, a group's positions are neighbours.
  const std::int32_t* group = nullptr;         ///< [cols]
  const std::int32_t* members = nullptr;       ///< [cols]
  const std::int32_t* first_member = nullptr;  ///< [groups + 1]
  std::uint8_t* codes = nullptr;               ///< [cols][rows], in the weights' order.
  float* scales = nullptr;                     ///< [groups][rows], as grid_of() has them.
  std::int32_t* zero_points = nullptr;         ///< [groups][rows]
  T* errors = nullptr;       ///< [end − begin][rows], e_i at end−1−i: what later columns make up for.
  T* currents = nullptr;     ///< [end − begin][rows], w_i as it was rounded, at end−1−i; only with drift.
  double* losses = nullptr;  ///< [rows], to which Σe² is added.
};

/// q_i = round(w_i), e_i = (w_i − q_i)/U_ii, and w_j += w_i·P_ij − e_i·U_ij for j within the step. Each row's
/// arithmetic is in one fixed order. Shared memory: 256 bytes a position. Returns the cudaError_t of the launch;
/// cudaErrorInvalidValue for a step that is empty or longer than kMaxGptqColumns.
template <class T>
int gptq_update(const GptqStep& step, const GptqBuffers<T>& buffers, cudaStream_t stream);

/// Grids of all groups, fitted to the weights as they are. Of the step, begin and end mean nothing; of the buffers,
/// only weights, members, first_member, scales and zero_points are used. Returns as gptq_update().
template <class T>
int gptq_fit(const GptqStep& step, const GptqBuffers<T>& buffers, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
