// By whom and with what the CPU backends pack weights.
#pragma once

#include "nibble/backend/backend.h"
#include "nibble/backend/impl/cpu/kernels.h"

namespace nibble::inline NIBBLE_ABI {

struct Packer {
  const Backend& backend;
  const kernels::KernelTable& isa;
  Executor& executor;
};

}  // namespace nibble::inline NIBBLE_ABI
