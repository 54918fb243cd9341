// Compiles what nibble/core/parallel.h declares, for programs that link the library.
#include "nibble/core/impl/parallel_inl.h"
