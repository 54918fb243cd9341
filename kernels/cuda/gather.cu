#include "kernels/cuda/gather.h"

#include <algorithm>

#include "kernels/cuda/gather.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

template <class Word>
cudaError_t run(const ActivationMatrix& x, const std::int32_t* columns, std::size_t n, const std::int32_t* count,
                void* out, std::size_t out_stride, cudaStream_t stream) {
  constexpr std::size_t each = kGatherThreads * kRun;
  const dim3 grid(static_cast<unsigned>((n + each - 1) / each),
                  static_cast<unsigned>(std::min<std::size_t>(x.tokens, 65535)));
  return launch(gather_kernel<Word>, grid, dim3(kGatherThreads), 0, stream, static_cast<const Word*>(x.data), x.tokens,
                x.stride, columns, n, count, static_cast<Word*>(out), out_stride);
}

}  // namespace

int gather_columns(const ActivationMatrix& x, const std::int32_t* columns, std::size_t n, const std::int32_t* count,
                   void* out, std::size_t out_stride, cudaStream_t stream) {
  if (x.tokens == 0 || n == 0) return cudaSuccess;
  switch (x.type) {
    case DType::f32: return run<unsigned>(x, columns, n, count, out, out_stride, stream);
    case DType::f16:
    case DType::bf16: return run<unsigned short>(x, columns, n, count, out, out_stride, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
