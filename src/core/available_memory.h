// How much memory a process may still take, for work that is spread over as many as fit.
#pragma once

#include <cstddef>
#include <filesystem>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// Bytes that new processes could take before the machine, or the control group that this process is in (a container's
/// limit), has to swap or to kill: pages of files that can be dropped count as free. 0 where the system does not say.
/// Linux: /proc/meminfo, and memory.max of control groups, version 2. `root` is where both are looked for.
std::size_t available_memory(const std::filesystem::path& root = "/");

}  // namespace nibble::inline NIBBLE_ABI
