// 8-bit Adam (train/adam8.h) on a CUDA device: the moments of a tensor of parameters, and its steps.
//
//   nibble::cuda::Adam8 adam(context, lora_a.rows * lora_a.cols, {.learning_rate = 2e-4}, stream);    // once
//   adam.step(lora_a, grad_a, stream);                                                                 // every batch
//
// The moments take 2 bytes a parameter and 8 for every 256, where fp32's take 8 bytes a parameter. The library is
// nibble::cuda.
#pragma once

#include <cstdint>
#include <vector>

#include "nibble/cuda/device.h"
#include "nibble/train/adam8.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// An optimizer's state in host memory, to be saved and resumed: bitsandbytes' state1, absmax1, state2, absmax2.
struct Adam8Moments {
  int steps = 0;                               ///< Taken so far.
  std::vector<std::uint8_t> m_codes, v_codes;  ///< One for each parameter.
  std::vector<float> m_absmax, v_absmax;       ///< One for each kAdam8Block of them.
};

/// Of one tensor. Not for two streams at a time.
class Adam8 {
 public:
  /// Before the first step. Allocates. Errors: invalid_argument (no parameters; an option that is not finite or out of
  /// range), CudaError.
  Adam8(const Context& context, std::size_t parameters, const AdamOptions& options, cudaStream_t stream);
  /// As it was at download(). Waits for the stream. Errors: as above, shape_mismatch (arrays of another length),
  /// invalid_argument (a negative number of steps).
  Adam8(const Context& context, const Adam8Moments& moments, const AdamOptions& options, cudaStream_t stream);

  /// Updates `parameters` by `gradients` on the stream, bit for bit as adam8_block() does: both of the same type (f32,
  /// f16 or bf16), as many as the state has, rows without gaps. A block's gradients that are not finite clear their own
  /// moments only. Neither waits nor allocates. Errors, with no step taken: shape_mismatch, unsupported (types),
  /// CudaError.
  void step(const MutableDeviceMatrix& parameters, const DeviceMatrix& gradients, cudaStream_t stream);

  /// Waits for the stream.
  [[nodiscard]] Adam8Moments download(cudaStream_t stream) const;

  [[nodiscard]] std::size_t parameters() const { return parameters_; }
  [[nodiscard]] int steps() const { return steps_; }
  [[nodiscard]] const AdamOptions& options() const { return options_; }
  /// From the next step on: a schedule's learning rate, say. Errors: invalid_argument.
  void set_options(const AdamOptions& options);

 private:
  const Context* context_;
  std::size_t parameters_;
  AdamOptions options_;
  int steps_ = 0;
  DeviceBuffer m_codes_, m_absmax_, v_codes_, v_absmax_;
};

}  // namespace nibble::inline NIBBLE_ABI::cuda
