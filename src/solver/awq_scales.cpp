// Compiles what nibble/solver/awq.h declares, for programs that link the library.
#include "nibble/solver/impl/awq_scales_inl.h"
