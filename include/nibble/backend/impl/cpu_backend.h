// The built-in backends: one for each instruction set that this build has kernels for.
#pragma once

#include <memory>
#include <vector>

#include "nibble/backend/backend.h"

namespace nibble::inline NIBBLE_ABI {

/// Fastest first, whether this CPU runs them or not; behind "scalar" those that only their name chooses.
std::vector<std::unique_ptr<Backend>> make_cpu_backends();

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/backend/impl/cpu_backend_inl.h"
#endif
