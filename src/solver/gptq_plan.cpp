// Compiles what nibble/solver/impl/gptq_plan.h declares, for programs that link the library.
#include "nibble/solver/impl/gptq_plan_inl.h"
