// How a kernel launch reaches the emulated CUDA runtime, where a test links one: the emulation of kernels knows nothing
// else of it, and needs none.
#pragma once

#include <cuda_runtime_api.h>

namespace nibble::cuda_emulation {

/// Called at each launch, before the kernel runs; what it returns, if not cudaSuccess, the launch returns instead of
/// running. Null where there is no emulated runtime.
inline cudaError_t (*on_launch)(cudaStream_t) = nullptr;

}  // namespace nibble::cuda_emulation
