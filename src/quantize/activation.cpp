// Compiles what nibble/quantize/activation.h declares, for programs that link the library.
#include "nibble/quantize/impl/activation_inl.h"
