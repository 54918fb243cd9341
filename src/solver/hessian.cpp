// Compiles what nibble/solver/hessian.h declares, for programs that link the library.
#include "nibble/solver/impl/hessian_inl.h"
