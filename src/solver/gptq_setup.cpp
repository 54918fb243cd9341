// Compiles what nibble/solver/impl/gptq_setup.h declares, for programs that link the library.
#include "nibble/solver/impl/gptq_setup_inl.h"
