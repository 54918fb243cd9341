// Compiles what nibble/scheme/impl/gguf_k_encode.h declares, for programs that link the library.
#include "nibble/scheme/impl/gguf_k_encode_inl.h"
