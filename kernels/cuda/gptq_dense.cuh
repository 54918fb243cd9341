#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/gptq_dense.h"
#include "kernels/cuda/reduce.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kDenseThreads = 128;

NIBBLE_DEVICE std::size_t first_element() { return std::size_t{blockIdx.x} * kDenseThreads + threadIdx.x; }
NIBBLE_DEVICE std::size_t element_step() { return std::size_t{gridDim.x} * kDenseThreads; }

NIBBLE_KERNEL(kDenseThreads, 8) void gptq_downcast_kernel(const double* from, float* to, std::size_t count) {
  for (std::size_t i = first_element(); i < count; i += element_step()) to[i] = static_cast<float>(__ldg(from + i));
}

template <class T>
NIBBLE_KERNEL(kDenseThreads, 8)
void gptq_keep_above_diagonal_kernel(T* matrix, std::size_t n) {
  for (std::size_t i = first_element(); i < n * n; i += element_step())
    if (i % n >= i / n) matrix[i] = T(0);
}

NIBBLE_KERNEL(kDenseThreads, 8)
void gptq_subtract_kernel(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride, float* out,
                          std::size_t out_stride, std::size_t rows, std::size_t cols) {
  for (std::size_t i = first_element(); i < rows * cols; i += element_step()) {
    const std::size_t r = i / cols, c = i % cols;
    out[r * out_stride + c] = __ldg(a + r * a_stride + c) - b[r * b_stride + c];
  }
}

/// A block has a row; its threads' sums are added up in a tree.
NIBBLE_KERNEL(kDenseThreads, 8)
void gptq_row_products_kernel(const float* a, const float* b, std::size_t rows, std::size_t cols, double* sums) {
  constexpr unsigned warps = kDenseThreads / kWarp;
  NIBBLE_SHARED(double, of_warp, warps);
  const auto add = [](double x, double y) { return x + y; };
  for (std::size_t r = blockIdx.x; r < rows; r += gridDim.x) {
    double sum = 0;
    for (std::size_t c = threadIdx.x; c < cols; c += kDenseThreads)
      sum += static_cast<double>(__ldg(a + r * cols + c)) * static_cast<double>(__ldg(b + r * cols + c));
    sum = reduce_team(sum, kWarp, add);
    if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (unsigned w = 1; w < warps; ++w) sum += of_warp[w];
      sums[r] = sum;
    }
    __syncthreads();
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
