// A kernel whose machine code holds instructions that are known: what the counts of the static tests are checked on.
#include "kernels/cuda/device.h"

namespace nibble::cuda {

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

}  // namespace nibble::cuda
