// Compiles what nibble/solver/impl/gptq_refit.h declares, for programs that link the library.
#include "nibble/solver/impl/gptq_refit_inl.h"

namespace nibble::inline NIBBLE_ABI::gptq {

template RefitHessian<float> refit_hessian(const FactorInput&, double, bool, Executor&);
template RefitHessian<double> refit_hessian(const FactorInput&, double, bool, Executor&);

}  // namespace nibble::inline NIBBLE_ABI::gptq
