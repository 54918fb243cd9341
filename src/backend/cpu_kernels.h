// The built-in kernels for code of the library that is no backend: solvers, which multiply plain fp32 matrices.
#pragma once

#include "kernels/cpu/kernels.h"

namespace nibble::inline NIBBLE_ABI {

/// The table of default_backend() where that is a built-in one, else the fastest that this CPU runs. Which one it is
/// never shows in a result.
const kernels::KernelTable& default_kernels();

}  // namespace nibble::inline NIBBLE_ABI
