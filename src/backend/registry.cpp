// Compiles what nibble/backend/backend.h declares, for programs that link the library.
#include "nibble/backend/impl/registry_inl.h"
