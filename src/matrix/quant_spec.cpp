// Compiles what nibble/matrix/quant_spec.h declares, for programs that link the library.
#include "nibble/matrix/impl/quant_spec_inl.h"
