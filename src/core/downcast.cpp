// Compiles what nibble/core/impl/downcast.h declares, for programs that link the library.
#include "nibble/core/impl/downcast_inl.h"
