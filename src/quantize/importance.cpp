// Compiles quantize_by_importance() of nibble/quantize/quantize.h, for programs that link the library.
#include "nibble/quantize/impl/importance_inl.h"
