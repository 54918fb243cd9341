// Every order that the emulation runs CUDA threads in; a real device has one of its own.
#pragma once

#ifdef NIBBLE_TEST_ON_GPU

namespace nibble::cuda_test {

template <class Body>
void for_each_order(const Body& body) {
  body();
}

}  // namespace nibble::cuda_test

#else

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/runtime/runtime.h"

namespace nibble::cuda_test {

using cuda_emulation::for_each_order;

/// Every test program of the kernels finds one device.
inline const bool powered_on = [] {
  cuda_emulation::power_on({13000, {cuda_emulation::a100()}});
  return true;
}();

}  // namespace nibble::cuda_test

#endif
