// Compiles what nibble/solver/impl/panel.h declares, for programs that link the library.
#include "nibble/solver/impl/panel_inl.h"
