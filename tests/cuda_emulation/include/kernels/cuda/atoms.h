// Stands in for the project's kernels/cuda/atoms.h, since this folder comes before it on the emulation's include path:
// what kernels/cuda/device.h lists, for a host compiler. See emulation.h for what this device checks.
#pragma once

// The language's own functions and variables; first, since kernels' headers use them as if built in.
#include <device_launch_parameters.h>
#include <vector_functions.h>

#include <cmath>
#include <tuple>
#include <type_traits>

#include "cuda_emulation/device_atoms.h"
#include "cuda_emulation/emulation.h"
#include "cuda_emulation/half_arithmetic.h"
#include "cuda_emulation/language.h"
#include "cuda_emulation/runtime/launch_hook.h"
#include "nibble/core/abi.h"

#define NIBBLE_DEVICE inline __attribute__((always_inline))
#define NIBBLE_KERNEL(max_threads, min_blocks) inline  // tests may include the body of a kernel that is linked, too
#define NIBBLE_SHARED(T, name, n)   \
  static const char name##_key = 0; \
  T(&name)[n] = *static_cast<T(*)[n]>(::nibble::cuda_emulation::static_shared(&name##_key, sizeof(T) * (n)))
#define NIBBLE_DYNAMIC_SHARED(name) \
  auto* const name = static_cast<unsigned char*>(::nibble::cuda_emulation::dynamic_shared())

namespace nibble::inline NIBBLE_ABI::cuda {

/// As the emulated runtime says, which must be linked. A failure leaves no error behind.
template <class... Parameters>
cudaError_t resident_blocks(void (*kernel)(Parameters...), unsigned threads, std::size_t shared_bytes, int* blocks) {
  const cudaError_t status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      blocks, reinterpret_cast<const void*>(kernel), static_cast<int>(threads), shared_bytes);
  if (status != cudaSuccess) (void)cudaGetLastError();
  return status;
}

/// Runs the kernel to its end, whatever the stream. Each thread has parameters of its own, as on the device.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                   const Arguments&... arguments) {
  if (cuda_emulation::on_launch != nullptr)
    if (const cudaError_t status = cuda_emulation::on_launch(stream); status != cudaSuccess) return status;
  const std::tuple<Parameters...> parameters{static_cast<Parameters>(arguments)...};
  const auto emulate = [&] {
    return cuda_emulation::run_grid(grid, block, shared_bytes, [&] { std::apply(kernel, parameters); });
  };
  if (cuda_emulation::run_elsewhere == nullptr) return emulate();
  cuda_emulation::KernelLaunch description{
      reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, {}, emulate};
  std::apply(
      [&](const auto&... p) {
        (description.parameters.push_back({&p, sizeof(p), alignof(std::remove_cvref_t<decltype(p)>)}), ...);
      },
      parameters);
  return cuda_emulation::run_elsewhere(description);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
