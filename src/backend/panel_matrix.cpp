// Compiles what nibble/backend/impl/cpu_matmul.h declares, for programs that link the library.
#include "nibble/backend/impl/panel_matrix_inl.h"
