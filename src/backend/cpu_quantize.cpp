// Compiles what nibble/backend/impl/cpu_quantize.h declares, for programs that link the library.
#include "nibble/backend/impl/cpu_quantize_inl.h"
