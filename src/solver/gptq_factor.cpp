// Compiles what nibble/solver/impl/gptq_factor.h declares, for programs that link the library.
#include "nibble/solver/impl/gptq_factor_inl.h"

namespace nibble::inline NIBBLE_ABI::gptq {

template solver::SquareMatrix<float> reversed_hessian(const FactorInput&, double, bool, Executor&);
template solver::SquareMatrix<double> reversed_hessian(const FactorInput&, double, bool, Executor&);
template std::optional<solver::SquareMatrix<float>> reversed_factor(const FactorInput&, double, bool,
                                                                    const kernels::KernelTable&, Executor&);
template std::optional<solver::SquareMatrix<double>> reversed_factor(const FactorInput&, double, bool,
                                                                     const kernels::KernelTable&, Executor&);
template Factor<float> factor_of(const FactorInput&, const solver::SquareMatrix<float>&, const kernels::KernelTable&,
                                 Executor&);
template Factor<double> factor_of(const FactorInput&, const solver::SquareMatrix<double>&, const kernels::KernelTable&,
                                  Executor&);

}  // namespace nibble::inline NIBBLE_ABI::gptq
