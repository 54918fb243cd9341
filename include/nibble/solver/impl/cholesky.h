// The Cholesky factorisation of a large matrix on the kernels' micro-kernel, over all threads.
#pragma once

#include "nibble/core/parallel.h"
#include "nibble/solver/impl/panel.h"

namespace nibble::inline NIBBLE_ABI::solver {

/// Replaces the lower triangle of `a` by L with a = L·Lᵀ; what lies above the diagonal is neither read nor meaningful
/// afterwards. False where a pivot is not positive: `a` is then of no use. Same result for any number of threads.
template <class T>
bool cholesky(SquareMatrix<T>& a, const kernels::KernelTable& isa, Executor& executor);

}  // namespace nibble::inline NIBBLE_ABI::solver

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/cholesky_inl.h"
#endif
