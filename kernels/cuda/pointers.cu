#include "kernels/cuda/pointers.h"

#include <algorithm>

#include "kernels/cuda/pointers.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

int store_pointers(std::span<const void* const> pointers, const void** out, cudaStream_t stream) {
  while (!pointers.empty()) {
    const std::size_t count = std::min(pointers.size(), kPointersALaunch);
    PointerBatch batch{};
    std::copy_n(pointers.begin(), count, batch.pointers);
    if (const cudaError_t status = launch(store_pointers_kernel, dim3(1), dim3(kPointersALaunch), 0, stream, batch,
                                          static_cast<unsigned>(count), out);
        status != cudaSuccess)
      return status;
    pointers = pointers.subspan(count);
    out += count;
  }
  return cudaSuccess;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
