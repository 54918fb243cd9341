// Compiles what nibble/matrix/block_matrix.h declares, for programs that link the library.
#include "nibble/matrix/impl/block_matrix_inl.h"
