// Compiles what nibble/backend/impl/cpu_kernels.h declares, for programs that link the library.
#include "nibble/backend/impl/cpu_kernels_inl.h"
