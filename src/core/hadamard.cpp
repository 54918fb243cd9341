// Compiles what nibble/core/hadamard.h declares, for programs that link the library.
#include "nibble/core/impl/hadamard_inl.h"
