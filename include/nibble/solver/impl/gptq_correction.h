// Qronos' correction: what the solver aims at where the layer's inputs are not what they were in full precision.
#pragma once

#include <cstddef>
#include <vector>

#include "nibble/solver/impl/gptq_factor.h"

namespace nibble::inline NIBBLE_ABI::gptq {

/// By how much the weights that a solution aims at differ from the layer's own. With x the layer's input, x̂ that in
/// full precision, D = scale·Σ (x̂ − x)·xᵀ and H damped, W·x̂ is met best, in the least-squares sense, by
/// W·(D + H)·H⁻¹ = W + W·D·H⁻¹.
///
/// GPTQ's diffusion on that target is Qronos: once the columns before are fixed at q, what the rest are brought up to,
/// t_R + (t − q)·H_{<R}·H_RR⁻¹, is (W·(D + H)_R − q·H_{<R})·H_RR⁻¹, which is Qronos' least-squares step. Only the very
/// first column is another: it is rounded as the best one beside the others as they are, before any correction.
template <class T>
struct Correction {
  std::vector<T> change;  ///< [rows][columns in the order of solving]: W·D·H⁻¹. Empty: there is none.
  std::vector<T> first;   ///< [rows]: (W·D)_1/H_11, H undamped: the same of the first column as it is rounded.

  [[nodiscard]] bool empty() const { return first.empty(); }
};

/// `l`: what reversed_factor() made of H. Error{non_finite} names what T cannot hold.
template <class T>
Correction<T> correction_of(FloatMatrix weights, const FactorInput& input, const solver::SquareMatrix<T>& l,
                            const Options& options, Executor& executor);

/// The fp64 correction, rounded.
Correction<float> rounded(const Correction<double>& correction);

}  // namespace nibble::inline NIBBLE_ABI::gptq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/gptq_correction_inl.h"
#endif
