#include "nibble/core/impl/memory.h"
