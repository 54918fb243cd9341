// Compiles what nibble/backend/impl/cpu_input.h declares, for programs that link the library.
#include "nibble/backend/impl/cpu_input_inl.h"
