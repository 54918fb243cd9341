// Compiles what nibble/core/cpu_features.h declares, for programs that link the library.
#include "nibble/core/impl/cpu_features_inl.h"
