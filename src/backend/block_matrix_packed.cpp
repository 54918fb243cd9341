// Compiles what nibble/backend/impl/cpu_matmul.h declares, for programs that link the library.
#include "nibble/backend/impl/block_matrix_packed_inl.h"
