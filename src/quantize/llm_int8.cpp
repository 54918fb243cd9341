// Compiles what nibble/quantize/llm_int8.h declares, for programs that link the library.
#include "nibble/quantize/impl/llm_int8_inl.h"
