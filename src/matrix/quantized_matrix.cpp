// Compiles what nibble/matrix/quantized_matrix.h declares, for programs that link the library.
#include "nibble/matrix/impl/quantized_matrix_inl.h"
