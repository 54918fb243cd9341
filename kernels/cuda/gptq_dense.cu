#include "kernels/cuda/gptq_dense.h"

#include <algorithm>

#include "kernels/cuda/gptq_dense.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// Enough blocks for any device; threads take several elements where there are more.
dim3 blocks_for(std::size_t elements) {
  const std::size_t most = 4096;
  return dim3(static_cast<unsigned>(std::min(most, (elements + kDenseThreads - 1) / kDenseThreads)));
}

}  // namespace

int gptq_downcast(const double* from, float* to, std::size_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return launch(gptq_downcast_kernel, blocks_for(count), dim3(kDenseThreads), 0, stream, from, to, count);
}

template <class T>
int gptq_keep_above_diagonal(T* matrix, std::size_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  return launch(gptq_keep_above_diagonal_kernel<T>, blocks_for(n * n), dim3(kDenseThreads), 0, stream, matrix, n);
}
template int gptq_keep_above_diagonal(float*, std::size_t, cudaStream_t);
template int gptq_keep_above_diagonal(double*, std::size_t, cudaStream_t);

int gptq_subtract(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride, float* out,
                  std::size_t out_stride, std::size_t rows, std::size_t cols, cudaStream_t stream) {
  if (rows == 0 || cols == 0) return cudaSuccess;
  return launch(gptq_subtract_kernel, blocks_for(rows * cols), dim3(kDenseThreads), 0, stream, a, a_stride, b, b_stride,
                out, out_stride, rows, cols);
}

int gptq_row_products(const float* a, const float* b, std::size_t rows, std::size_t cols, double* sums,
                      cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return launch(gptq_row_products_kernel, blocks_for(rows * kDenseThreads), dim3(kDenseThreads), 0, stream, a, b, rows,
                cols, sums);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
