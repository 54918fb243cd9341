// Compiles what nibble/solver/gptq.h declares, for programs that link the library.
#include "nibble/solver/impl/gptq_inl.h"
