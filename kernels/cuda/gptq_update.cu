#include "kernels/cuda/gptq_update.h"

#include "kernels/cuda/gptq_update.cuh"

namespace nibble::cuda {

int gptq_update(const GptqStep& step, const GptqBuffers& buffers, cudaStream_t stream) {
  if (step.end <= step.begin || step.end > step.cols || step.end - step.begin > kMostGptqColumns ||
      step.group_size == 0)
    return cudaErrorInvalidValue;
  if (step.rows == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((step.rows + kGptqThreads - 1) / kGptqThreads));
  return launch(gptq_update_kernel, grid, dim3(kGptqThreads), (step.end - step.begin) * kGptqThreads * sizeof(float),
                stream, step, buffers);
}

}  // namespace nibble::cuda
