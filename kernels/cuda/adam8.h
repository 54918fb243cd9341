// A step of Adam with 8-bit moments on the device, bit for bit that of train/adam8.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/canonical.h"
#include "nibble/core/dtype.h"
#include "nibble/train/adam8.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// The moments of `count` parameters, on the device: a code each, an absmax for every kAdam8Block. Zero bytes in
/// the absmax values are the state before the first step.
struct Adam8State {
  std::uint8_t* m_codes = nullptr;
  float* m_absmax = nullptr;
  std::uint8_t* v_codes = nullptr;
  float* v_absmax = nullptr;
};

/// Updates `parameters` and `state` by `gradients`, all [count], parameters and gradients of `type` (f32, f16 or bf16;
/// arithmetic is fp32, and a parameter is rounded once). A warp owns a block: 8 elements a lane. Bytes moved for each
/// parameter of fp16: 10. Returns the cudaError_t of the launch.
int adam8(void* parameters, const void* gradients, DType type, std::size_t count, const Adam8State& state,
          const AdamStep& step, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
