// Compiles what nibble/matrix/scheme_registry.h declares, for programs that link the library.
#include "nibble/matrix/impl/scheme_registry_inl.h"
