// The kernels of activations.h. For activations.cu alone.
#pragma once

#include "kernels/cuda/activations.h"
#include "kernels/cuda/canonical.cuh"
#include "kernels/cuda/reduce.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kActivationThreads = 256;
inline constexpr unsigned kActivationWarps = kActivationThreads / kWarp;
/// Tokens that one block of the search for outliers looks at.
inline constexpr unsigned kOutlierTokens = 64;

NIBBLE_KERNEL(kActivationThreads, 1) void clear_outliers_kernel(std::uint32_t* is_outlier, std::size_t cols) {
  const std::size_t c = std::size_t{blockIdx.x} * kActivationThreads + threadIdx.x;
  if (c < cols) is_outlier[c] = 0;
}

/// A thread looks at eight columns of kOutlierTokens tokens.
template <class T>
NIBBLE_KERNEL(kActivationThreads, 4)
void mark_outliers_kernel(const T* x, std::size_t tokens, std::size_t cols, std::size_t stride, float threshold,
                          std::uint32_t* is_outlier) {
  const std::size_t col = (std::size_t{blockIdx.x} * kActivationThreads + threadIdx.x) * kRun;
  if (col >= cols) return;
  const int n = cols - col < kRun ? static_cast<int>(cols - col) : kRun;
  const std::size_t step = std::size_t{gridDim.y} * kOutlierTokens;
  bool found[kRun] = {};
  for (std::size_t begin = std::size_t{blockIdx.y} * kOutlierTokens; begin < tokens; begin += step)
    for (std::size_t t = begin; t < tokens && t < begin + kOutlierTokens; ++t) {
      float v[kRun];
      load_run(x + t * stride + col, n, v);
#pragma unroll
      for (int i = 0; i < kRun; ++i) found[i] = found[i] || magnitude(v[i]) >= threshold;
    }
#pragma unroll
  for (int i = 0; i < kRun; ++i)
    if (i < n && found[i]) atomicMax(is_outlier + col + i, 1u);
}

/// One block: the marked columns in ascending order. Each thread counts a stretch, and writes it where those before
/// end.
NIBBLE_KERNEL(kActivationThreads, 1)
void list_outliers_kernel(const std::uint32_t* is_outlier, std::size_t cols, std::int32_t* columns,
                          std::int32_t* count) {
  NIBBLE_SHARED(std::int32_t, ends, kActivationThreads);
  const unsigned thread = threadIdx.x;
  const std::size_t stretch = (cols + kActivationThreads - 1) / kActivationThreads;
  const std::size_t begin = thread * stretch < cols ? thread * stretch : cols;
  const std::size_t end = begin + stretch < cols ? begin + stretch : cols;
  std::int32_t own = 0;
  for (std::size_t c = begin; c < end; ++c) own += static_cast<std::int32_t>(is_outlier[c]);
  ends[thread] = own;
  __syncthreads();
  for (unsigned distance = 1; distance < kActivationThreads; distance *= 2) {
    const std::int32_t before = thread >= distance ? ends[thread - distance] : 0;
    __syncthreads();  // all have read what is now changed
    ends[thread] += before;
    __syncthreads();
  }
  std::int32_t at = ends[thread] - own;
  for (std::size_t c = begin; c < end; ++c)
    if (is_outlier[c] != 0) columns[at++] = static_cast<std::int32_t>(c);
  if (thread == kActivationThreads - 1) *count = ends[thread];
}

NIBBLE_KERNEL(1, 1) void clear_place_kernel(unsigned long long* place) { *place = 0; }

/// A block rounds one token: its absmax, then its codes; the second reading comes from the caches.
template <class T>
NIBBLE_KERNEL(kActivationThreads, 4)
void round_activations_kernel(const T* x, std::size_t cols, std::size_t stride, const std::uint32_t* is_outlier,
                              std::int8_t* codes, std::size_t codes_stride, float* absmax,
                              unsigned long long* non_finite) {
  NIBBLE_SHARED(float, of_warps, kActivationWarps);
  const std::size_t token = blockIdx.x;
  const T* row = x + token * stride;
  float most = 0;
  for (std::size_t c = std::size_t{threadIdx.x} * kRun; c < cols; c += kActivationThreads * kRun) {
    const int n = cols - c < kRun ? static_cast<int>(cols - c) : kRun;
    float v[kRun];
    load_run(row + c, n, v);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (!is_finite(v[i]))
        atomicMax(non_finite, ~static_cast<unsigned long long>(token * cols + c + static_cast<unsigned>(i)));
      if (is_outlier == nullptr || (i < n && is_outlier[c + static_cast<unsigned>(i)] == 0))
        most = larger(magnitude(v[i]), most);
    }
  }
  most = reduce_team(most, kWarp, larger);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = most;
  __syncthreads();
#pragma unroll
  for (unsigned w = 0; w < kActivationWarps; ++w) most = larger(of_warps[w], most);
  most = LlmInt8::fit(Range{-most, most}).absmax;
  if (threadIdx.x == 0) absmax[token] = most;
  const float factor = LlmInt8::multiplier(most);
  for (std::size_t c = std::size_t{threadIdx.x} * kRun; c < codes_stride; c += kActivationThreads * kRun) {
    const int n = c >= cols ? 0 : cols - c < kRun ? static_cast<int>(cols - c) : kRun;
    float v[kRun];
    load_run(row + c, n, v);
    std::uint64_t word = 0;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i >= n || (is_outlier != nullptr && is_outlier[c + static_cast<unsigned>(i)] != 0)) continue;
      const int code = LlmInt8::encode_scaled(v[i], factor) - LlmInt8::zero_point;
      word |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(code)) << (8 * i);
    }
    store_codes(reinterpret_cast<std::uint8_t*>(codes) + token * codes_stride + c,
                codes_stride - c < kRun ? static_cast<int>(codes_stride - c) : kRun, 8, word);
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
