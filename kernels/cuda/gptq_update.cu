#include "kernels/cuda/gptq_update.h"

#include <algorithm>

#include "kernels/cuda/gptq_update.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

template <class T>
unsigned blocks_of(std::size_t rows) {
  return static_cast<unsigned>((rows + kGptqThreads<T> - 1) / kGptqThreads<T>);
}

}  // namespace

template <class T>
int gptq_update(const GptqStep& step, const GptqBuffers<T>& buffers, cudaStream_t stream) {
  if (step.end <= step.begin || step.end > step.cols || step.end - step.begin > kMaxGptqColumns || step.groups == 0)
    return cudaErrorInvalidValue;
  if (step.rows == 0) return cudaSuccess;
  return launch(gptq_update_kernel<T>, dim3(blocks_of<T>(step.rows)), dim3(kGptqThreads<T>),
                (step.end - step.begin) * kGptqThreads<T> * sizeof(T), stream, step, buffers);
}

template <class T>
int gptq_fit(const GptqStep& step, const GptqBuffers<T>& buffers, cudaStream_t stream) {
  if (step.groups == 0) return cudaErrorInvalidValue;
  if (step.rows == 0) return cudaSuccess;
  constexpr std::size_t most = 65535;  // of a grid's second dimension
  const dim3 grid(blocks_of<T>(step.rows), static_cast<unsigned>(std::min(step.groups, most)));
  return launch(gptq_fit_kernel<T>, grid, dim3(kGptqThreads<T>), 0, stream, step, buffers);
}

template int gptq_update(const GptqStep&, const GptqBuffers<float>&, cudaStream_t);
template int gptq_update(const GptqStep&, const GptqBuffers<double>&, cudaStream_t);
template int gptq_fit(const GptqStep&, const GptqBuffers<float>&, cudaStream_t);
template int gptq_fit(const GptqStep&, const GptqBuffers<double>&, cudaStream_t);

}  // namespace nibble::inline NIBBLE_ABI::cuda
