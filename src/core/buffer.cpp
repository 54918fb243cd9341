// Compiles what nibble/core/buffer.h declares, for programs that link the library.
#include "nibble/core/impl/buffer_inl.h"
