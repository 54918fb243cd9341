// What GPTQ needs of the Hessian, factored once for all rows.
#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "nibble/solver/hessian.h"
#include "nibble/solver/impl/gptq_plan.h"
#include "nibble/solver/impl/panel.h"

namespace nibble::inline NIBBLE_ABI::gptq {

using solver::kDepth;
using solver::kLanes;

/// From one row of a coupling to the next: not a power of two, so that rows do not share a cache set.
inline constexpr std::size_t kRow = kDepth + 16;

/// One step's share of the factor R (H = R·Rᵀ, upper triangular, in the order of solving). Left operands of the
/// micro-kernel, so their rows are columns of the weights: w = window − begin of them.
template <class T>
struct StepFactor {
  Step step;
  /// (R_GG)⁻¹ of the window, transposed: U_ij at [j − begin][i − begin], w × w.
  std::vector<T> inverse;
  /// R_{<begin,G}·(R_GG)⁻¹, transposed: for each kDepth of positions before `begin` a [w][kRow], of which the last
  /// one's rows are filled only so far.
  std::vector<T> coupling;
  /// GPTAQ's P in the same two shapes, or empty.
  std::vector<T> drift_inside, drift;

  [[nodiscard]] std::size_t width() const { return step.window - step.begin; }
  /// Where in `coupling` the positions from `first`, a multiple of kDepth, begin.
  [[nodiscard]] std::size_t chunk(std::size_t first) const { return first / kDepth * width() * kRow; }
};

template <class T>
using Factor = std::vector<StepFactor<T>>;

struct FactorInput {
  const Hessian& hessian;
  const Plan& plan;
  double scale;                         ///< H = scale·sum.
  const std::vector<double>& diagonal;  ///< Of H, one value a column, as make_plan got it: dead channels' are set.
  double alpha;
};

/// The lower triangle of H + lambda·I in the reverse of the order of solving. With `dominant`, each diagonal element is
/// raised to the sum of its row's magnitudes first.
template <class T>
solver::SquareMatrix<T> reversed_hessian(const FactorInput& input, double lambda, bool dominant, Executor& executor);

/// Whether a pivot kept some significance of the diagonal element that it came from: one that is all rounding error
/// gives a solution that is nothing else.
template <class T>
bool is_significant(T pivot, T diagonal) {
  return pivot * pivot > 4 * std::numeric_limits<T>::epsilon() * diagonal;
}

/// L of reversed_hessian() = L·Lᵀ, its lower triangle: R with rows and columns reversed. Nothing where H + lambda·I is
/// not positive definite in T, or a pivot is_significant() no more.
template <class T>
std::optional<solver::SquareMatrix<T>> reversed_factor(const FactorInput& input, double lambda, bool dominant,
                                                       const kernels::KernelTable& isa, Executor& executor);

/// What each of the plan's steps needs of it.
template <class T>
Factor<T> factor_of(const FactorInput& input, const solver::SquareMatrix<T>& l, const kernels::KernelTable& isa,
                    Executor& executor);

/// The fp64 factor, rounded.
Factor<float> rounded(const Factor<double>& factor);

}  // namespace nibble::inline NIBBLE_ABI::gptq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/gptq_factor_inl.h"
#endif
