// The avxvnni kernels, compiled with the flags of their instruction set (src/CMakeLists.txt).
#include "nibble/backend/impl/cpu/avxvnni.h"
