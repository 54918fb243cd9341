// Compiles what nibble/solver/impl/rank_update.h declares, for programs that link the library.
#include "nibble/solver/impl/rank_update_inl.h"
