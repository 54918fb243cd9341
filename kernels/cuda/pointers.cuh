// The kernel of pointers.h.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/pointers.h"

namespace nibble::inline NIBBLE_ABI::cuda {

struct PointerBatch {
  const void* pointers[kPointersALaunch];
};

/// A thread stores one address.
NIBBLE_KERNEL(kPointersALaunch, 1)
void store_pointers_kernel(PointerBatch batch, unsigned count, const void** out) {
  if (threadIdx.x < count) out[threadIdx.x] = batch.pointers[threadIdx.x];
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
