// Compiles what nibble/solver/awq.h declares, for programs that link the library.
#include "nibble/solver/impl/awq_clip_inl.h"
