// Compiles what nibble/backend/gated.h declares, for programs that link the library.
#include "nibble/backend/impl/gated_inl.h"
