// Compiles what nibble/solver/impl/gptq_blocks.h declares, for programs that link the library.
#include "nibble/solver/impl/gptq_blocks_inl.h"
