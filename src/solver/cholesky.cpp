// Compiles what nibble/solver/impl/cholesky.h declares, for programs that link the library.
#include "nibble/solver/impl/cholesky_inl.h"

namespace nibble::inline NIBBLE_ABI::solver {

template bool cholesky(SquareMatrix<float>&, const kernels::KernelTable&, Executor&);
template bool cholesky(SquareMatrix<double>&, const kernels::KernelTable&, Executor&);

}  // namespace nibble::inline NIBBLE_ABI::solver
