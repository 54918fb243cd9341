#include "bench/cuda/read_memory.h"

#include "bench/cuda/read_memory.cuh"

namespace nibble::bench {

int read_memory(const void* from, std::size_t bytes, std::uint32_t* sums, unsigned blocks, cudaStream_t stream) {
  if (bytes % 16 != 0 || blocks == 0) return cudaErrorInvalidValue;
  return cuda::launch(read_memory_kernel, dim3(blocks), dim3(kReadThreads), 0, stream, static_cast<const uint4*>(from),
                      bytes / 16, sums);
}

}  // namespace nibble::bench
