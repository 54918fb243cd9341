// The kernel of read_memory.h.
#pragma once

#include "kernels/cuda/reduce.cuh"

namespace nibble::bench {

inline constexpr unsigned kReadThreads = 256;

/// Neighbouring threads read neighbouring 16 bytes, each several at a time, so that enough are under way.
NIBBLE_KERNEL(kReadThreads, 4)
void read_memory_kernel(const uint4* from, std::size_t count, std::uint32_t* sums) {
  NIBBLE_SHARED(std::uint32_t, of_warp, kReadThreads / cuda::kWarp);
  const auto add = [](std::uint32_t a, std::uint32_t b) { return a + b; };
  const std::size_t apart = std::size_t{gridDim.x} * kReadThreads;
  std::uint32_t sum = 0;
#pragma unroll 8
  for (std::size_t i = std::size_t{blockIdx.x} * kReadThreads + threadIdx.x; i < count; i += apart) {
    const uint4 words = cuda::load_stream(from + i);
    sum += words.x + words.y + words.z + words.w;
  }
  sum = cuda::reduce_team(sum, cuda::kWarp, add);
  if (threadIdx.x % cuda::kWarp == 0) of_warp[threadIdx.x / cuda::kWarp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (unsigned w = 1; w < kReadThreads / cuda::kWarp; ++w) sum += of_warp[w];
  sums[blockIdx.x] = sum;
}

}  // namespace nibble::bench
