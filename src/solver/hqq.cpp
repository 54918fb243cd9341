// Compiles what nibble/solver/hqq.h declares, for programs that link the library.
#include "nibble/solver/impl/hqq_inl.h"
