// Reading device memory as fast as it can be read: the limit of products that are bound by their weights. A copy is
// none, since reads alone are faster.
#pragma once

#include <cstddef>
#include <cstdint>

using cudaStream_t = struct CUstream_st*;  // as cuda_runtime.h has it

namespace nibble::bench {

/// Reads `bytes` (a multiple of 16) from an address that is one, each byte once and past the L1 cache. sums[b], of
/// `blocks`, gets the sum of the 32-bit words that block b has read, modulo 2³². Returns the cudaError_t of the launch.
int read_memory(const void* from, std::size_t bytes, std::uint32_t* sums, unsigned blocks, cudaStream_t stream);

}  // namespace nibble::bench
