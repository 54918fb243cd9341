// Scales by least squares once the codes are known.
#pragma once

#include <cstddef>
#include <vector>

#include "nibble/solver/impl/gptq_factor.h"

namespace nibble::inline NIBBLE_ABI::gptq {

/// What the refit multiplies by: H + λI, both triangles, groups one behind another.
template <class T>
struct RefitHessian {
  std::vector<std::size_t> positions;  ///< In the order of solving, of each of its rows and columns.
  std::vector<std::size_t> begins;     ///< [groups + 1]: where a group's rows begin.
  solver::SquareMatrix<T> values{0};

  [[nodiscard]] bool empty() const { return positions.empty(); }
};

/// Of the H that reversed_hessian() gives with the same arguments.
template <class T>
RefitHessian<T> refit_hessian(const FactorInput& input, double lambda, bool dominant, Executor& executor);

/// The fp64 one, rounded.
RefitHessian<float> rounded(const RefitHessian<double>& hessian);

}  // namespace nibble::inline NIBBLE_ABI::gptq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/gptq_refit_inl.h"
#endif
