#include "kernels/cuda/activations.h"

#include <algorithm>

#include "kernels/cuda/activations.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

dim3 blocks_for(std::size_t threads, std::size_t each) {
  return dim3(static_cast<unsigned>((threads + each - 1) / each));
}

template <class T>
cudaError_t mark(const ActivationMatrix& x, float threshold, std::uint32_t* is_outlier, cudaStream_t stream) {
  dim3 grid = blocks_for(x.cols, kActivationThreads * kRun);
  grid.y = static_cast<unsigned>(std::min<std::size_t>((x.tokens + kOutlierTokens - 1) / kOutlierTokens, 65535));
  return launch(mark_outliers_kernel<T>, grid, dim3(kActivationThreads), 0, stream, static_cast<const T*>(x.data),
                x.tokens, x.cols, x.stride, threshold, is_outlier);
}

template <class T>
cudaError_t round(const ActivationMatrix& x, const std::uint32_t* is_outlier, std::int8_t* codes,
                  std::size_t codes_stride, float* absmax, unsigned long long* non_finite, cudaStream_t stream) {
  return launch(round_activations_kernel<T>, dim3(static_cast<unsigned>(x.tokens)), dim3(kActivationThreads), 0, stream,
                static_cast<const T*>(x.data), x.cols, x.stride, is_outlier, codes, codes_stride, absmax, non_finite);
}

}  // namespace

int find_outlier_columns(const ActivationMatrix& x, float threshold, std::uint32_t* is_outlier, std::int32_t* columns,
                         std::int32_t* count, cudaStream_t stream) {
  if (x.tokens == 0 || x.cols == 0 || !(threshold > 0)) return cudaErrorInvalidValue;
  cudaError_t error = launch(clear_outliers_kernel, blocks_for(x.cols, kActivationThreads), dim3(kActivationThreads), 0,
                             stream, is_outlier, x.cols);
  if (error != cudaSuccess) return error;
  switch (x.type) {
    case DType::f32: error = mark<float>(x, threshold, is_outlier, stream); break;
    case DType::f16: error = mark<f16>(x, threshold, is_outlier, stream); break;
    case DType::bf16: error = mark<bf16>(x, threshold, is_outlier, stream); break;
    default: return cudaErrorInvalidValue;
  }
  if (error != cudaSuccess) return error;
  return launch(list_outliers_kernel, dim3(1), dim3(kActivationThreads), 0, stream,
                static_cast<const std::uint32_t*>(is_outlier), x.cols, columns, count);
}

int round_activations(const ActivationMatrix& x, const std::uint32_t* is_outlier, std::int8_t* codes,
                      std::size_t codes_stride, float* absmax, unsigned long long* non_finite, cudaStream_t stream) {
  if (codes_stride < x.cols) return cudaErrorInvalidValue;
  const cudaError_t error = launch(clear_place_kernel, dim3(1), dim3(1), 0, stream, non_finite);
  if (error != cudaSuccess || x.tokens == 0) return error;
  switch (x.type) {
    case DType::f32: return round<float>(x, is_outlier, codes, codes_stride, absmax, non_finite, stream);
    case DType::f16: return round<f16>(x, is_outlier, codes, codes_stride, absmax, non_finite, stream);
    case DType::bf16: return round<bf16>(x, is_outlier, codes, codes_stride, absmax, non_finite, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
