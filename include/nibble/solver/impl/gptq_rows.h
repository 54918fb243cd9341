// Solves the rows of one matrix, which are independent once the Hessian is factored.
#pragma once

#include "nibble/solver/impl/gptq_correction.h"
#include "nibble/solver/impl/gptq_refit.h"

namespace nibble::inline NIBBLE_ABI::gptq {

template <class T>
struct RowsInput {
  FloatMatrix weights;
  const Plan& plan;
  const Factor<T>& factor;
  const Correction<T>& correction;
  const RefitHessian<T>& refit;
  const Options& options;
  const std::vector<bool>& dead;  ///< One a column.
};

/// Fills `out`'s codes, scales and zero points; returns ½Σe².
template <class T>
double solve_rows(const RowsInput<T>& input, QuantizedMatrix& out, Executor& executor);

}  // namespace nibble::inline NIBBLE_ABI::gptq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/gptq_rows_inl.h"
#endif
