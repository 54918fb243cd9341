// The rank-k update of calibration: sums of x·xᵀ over the tokens of a batch.
#pragma once

#include <cstddef>

#include "nibble/backend/impl/cpu/kernels.h"
#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"

namespace nibble::inline NIBBLE_ABI::solver {

/// The first row that holds a NaN or a value of magnitude `limit` or more; x.rows if none does.
std::size_t first_beyond(FloatMatrix x, float limit, const kernels::KernelTable& isa, Executor& executor);

/// Adds Σ_t x[t][i]·x[t][j] to `lower`, row i of which (j ≤ i) starts at i·(i+1)/2; and, unless `cross` is null,
/// Σ_t (full − x)[t][i]·x[t][j] to cross[i·cols + j]. Sums of 256 products are fp32, the rest fp64.
void add_products(FloatMatrix x, FloatMatrix full, double* lower, double* cross, const kernels::KernelTable& isa,
                  Executor& executor);

}  // namespace nibble::inline NIBBLE_ABI::solver

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/rank_update_inl.h"
#endif
