// The kernel of gather.h: of words of 16 or 32 bits, whatever they mean.
#pragma once

#include "kernels/cuda/canonical.cuh"
#include "kernels/cuda/gather.h"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kGatherThreads = 128;

/// A thread gathers eight columns of one token, and stores them in whole 16 bytes where it can.
template <class Word>
NIBBLE_KERNEL(kGatherThreads, 8)
void gather_kernel(const Word* x, std::size_t tokens, std::size_t stride, const std::int32_t* columns, std::size_t n,
                   const std::int32_t* count, Word* out, std::size_t out_stride) {
  const std::size_t k = (std::size_t{blockIdx.x} * kGatherThreads + threadIdx.x) * kRun;
  if (k >= n) return;
  const std::size_t valid = count != nullptr ? static_cast<std::size_t>(*count) : n;
  std::int32_t from[kRun];
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const std::size_t at = k + static_cast<std::size_t>(i);
    from[i] = at < n && at < valid ? __ldg(columns + at) : -1;
  }
  constexpr int each = 16 / sizeof(Word);
  for (std::size_t t = blockIdx.y; t < tokens; t += gridDim.y) {
    Word* to = out + t * out_stride + k;
    const bool whole = n - k >= kRun && is_aligned(to, 16);
#pragma unroll
    for (int i = 0; i < kRun; i += each) {
      Quad<Word> quad;
#pragma unroll
      for (int j = 0; j < each; ++j) quad.value[j] = from[i + j] < 0 ? Word{0} : __ldg(x + t * stride + from[i + j]);
      if (whole) *reinterpret_cast<uint4*>(to + i) = quad.bits;
      else
#pragma unroll
        for (int j = 0; j < each; ++j)
          if (k + static_cast<std::size_t>(i + j) < n) to[i + j] = quad.value[j];
    }
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
