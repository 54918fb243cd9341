// Compiles what nibble/scheme/gguf_blocks.h declares, for programs that link the library.
#include "nibble/scheme/impl/gguf_blocks_inl.h"
