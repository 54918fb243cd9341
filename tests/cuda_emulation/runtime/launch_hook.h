// How a kernel launch reaches the emulated CUDA runtime, where a test links one: the emulation of kernels knows nothing
// else of it, and needs none.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <vector>

namespace nibble::cuda_emulation {

/// Called at each launch, before the kernel runs; what it returns, if not cudaSuccess, the launch returns instead of
/// running. Null where there is no emulated runtime.
inline cudaError_t (*on_launch)(cudaStream_t) = nullptr;

/// A launch as another executor of the same kernel needs it: the kernel's address and its parameters' values.
struct KernelLaunch {
  struct Parameter {
    const void* data;
    std::size_t bytes, alignment;
  };
  const void* kernel;
  dim3 grid, block;
  std::size_t shared_bytes;
  std::vector<Parameter> parameters;
  std::function<cudaError_t()> emulate;  ///< Runs it here after all.
};
/// Called instead of running the kernel, where it is not null.
inline cudaError_t (*run_elsewhere)(const KernelLaunch&) = nullptr;

}  // namespace nibble::cuda_emulation
