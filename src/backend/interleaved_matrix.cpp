// Compiles what nibble/backend/impl/cpu_matrix.h declares, for programs that link the library.
#include "nibble/backend/impl/interleaved_matrix_inl.h"
