// Compiles what nibble/core/impl/narrow.h declares, for programs that link the library.
#include "nibble/core/impl/narrow_inl.h"
