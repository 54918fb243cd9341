// A kernel whose machine code holds instructions that are known: what the counts of the static tests are checked on.
#include "kernels/cuda/device.h"
#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::cuda {

__global__ void probe_kernel(const uint4* in, uint4* out, int n) {
  NIBBLE_SHARED(uint4, tile, 64);
  cp_async_16(&tile[threadIdx.x], in + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  std::uint32_t a[4];
  ldmatrix_x4(a, &tile[threadIdx.x]);
  const uint4 loaded = load_stream(in + 64 + threadIdx.x);
  const std::uint32_t b[2] = {loaded.x, loaded.y};
  float c[4] = {};
  int d[4] = {};
  mma(c, a, b, half{});
  mma_s8(d, a, b);
  volatile int local[16];  // indexed by a run-time value: local memory
  for (int i = 0; i < 16; ++i) local[i] = d[i % 4];
  const int picked = local[n & 15] + __shfl_xor_sync(0xffffffff, d[0], 1);
  store_stream(out + threadIdx.x, uint4{__float_as_uint(c[0]), __float_as_uint(c[1]), a[0] ^ loaded.z ^ loaded.w,
                                        static_cast<unsigned>(picked)});
}

/// A product before a loop, one in it, and one in a loop around that.
__global__ void probe_loop_kernel(const std::uint32_t* in, float* out, int n) {
  float c[4] = {};
  const std::uint32_t a[4] = {in[0], in[1], in[2], in[3]};
  std::uint32_t b[2] = {in[4], in[5]};
  mma(c, a, b, half{});
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
    b[0] = in[i];
    mma(c, a, b, half{});
    mma(c, a, b, half{});
#pragma unroll 1
    for (unsigned j = 0; j < b[0]; ++j) {
      b[1] = in[i + j];
      mma(c, a, b, half{});
    }
  }
  out[threadIdx.x] = c[0];
}

/// An integer becomes a number, and a number an integer.
__global__ void probe_conversion_kernel(const int* in, float* out, int* rounded) {
  out[threadIdx.x] = static_cast<float>(in[threadIdx.x]);
  rounded[threadIdx.x] = static_cast<int>(out[threadIdx.x + 1024]);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
