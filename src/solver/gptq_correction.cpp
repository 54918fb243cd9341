// Compiles what nibble/solver/impl/gptq_correction.h declares, for programs that link the library.
#include "nibble/solver/impl/gptq_correction_inl.h"

namespace nibble::inline NIBBLE_ABI::gptq {

template Correction<float> correction_of(FloatMatrix, const FactorInput&, const solver::SquareMatrix<float>&,
                                         const Options&, Executor&);
template Correction<double> correction_of(FloatMatrix, const FactorInput&, const solver::SquareMatrix<double>&,
                                          const Options&, Executor&);

}  // namespace nibble::inline NIBBLE_ABI::gptq
