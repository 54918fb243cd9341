// Compiles what nibble/backend/impl/cpu_backend.h declares, for programs that link the library.
#include "nibble/backend/impl/cpu_backend_inl.h"
