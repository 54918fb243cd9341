#include "kernels/cuda/adam8.h"

#include <algorithm>

#include "kernels/cuda/adam8.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

template <class T>
cudaError_t run(void* parameters, const void* gradients, std::size_t count, const Adam8State& state,
                const AdamStep& step, cudaStream_t stream) {
  using Signed = Codebook<dynamic_map<true>>;
  using Unsigned = Codebook<dynamic_map<false>>;
  static_assert(Signed::size == 256 && Unsigned::size == 256);
  AdamMaps maps;
  std::copy(Signed::values().begin(), Signed::values().end(), maps.signed_value);
  std::copy(Unsigned::values().begin(), Unsigned::values().end(), maps.unsigned_value);
  const std::size_t each = kAdamWarps * kAdam8Block;
  return launch(adam8_kernel<T>, dim3(static_cast<unsigned>((count + each - 1) / each)), dim3(kAdamThreads), 0, stream,
                static_cast<T*>(parameters), static_cast<const T*>(gradients), count, state, step, maps);
}

}  // namespace

int adam8(void* parameters, const void* gradients, DType type, std::size_t count, const Adam8State& state,
          const AdamStep& step, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  switch (type) {
    case DType::f32: return run<float>(parameters, gradients, count, state, step, stream);
    case DType::f16: return run<f16>(parameters, gradients, count, state, step, stream);
    case DType::bf16: return run<bf16>(parameters, gradients, count, state, step, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
