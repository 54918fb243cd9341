// Every order that the emulation runs CUDA threads in; a real device has one of its own.
#pragma once

#ifdef NIBBLE_TEST_ON_GPU

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

namespace nibble::cuda_test {

/// A machine without a device runs no test, and says so: ctest takes 77 for "skipped".
inline const bool has_device = [] {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaSuccess && devices > 0) return true;
  std::printf("NOT RUN: no CUDA device (%s)\n", cudaGetErrorString(status));
  std::fflush(stdout);
  std::_Exit(77);
}();

template <class Body>
void for_each_order(const Body& body) {
  body();
}

}  // namespace nibble::cuda_test

#else

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/runtime/launch_hook.h"
#include "tests/cuda_emulation/runtime/runtime.h"

namespace nibble::cuda_test {

/// The interpreter of PTX finds races of threads in any order, and these tests have run on the emulated device in
/// every one: there two do.
template <class Body>
void for_each_order(const Body& body, int resident_blocks = 1, int random_seeds = 2) {
  if (cuda_emulation::run_elsewhere == nullptr)
    return cuda_emulation::for_each_order(body, resident_blocks, random_seeds);
  using cuda_emulation::ThreadOrder;
  cuda_emulation::with_options({ThreadOrder::descending, 1, resident_blocks}, body);
  cuda_emulation::with_options({ThreadOrder::random, 1, resident_blocks}, body);
}

/// Every test program of the kernels finds one device.
inline const bool powered_on = [] {
  cuda_emulation::power_on({13000, {cuda_emulation::a100()}});
  return true;
}();

}  // namespace nibble::cuda_test

#endif
