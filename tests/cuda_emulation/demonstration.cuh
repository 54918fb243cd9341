// Two small kernels that use the device as real ones do: shared memory across a barrier, and a chain of locks between
// blocks. They show what the emulation is for, and carry seeded defects that it must find.
#pragma once

#include "kernels/cuda/device.h"
#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kTransposeTile = 16;

/// out[c][r] = in[r][c]. Blocks of 16 × 16 threads, each a tile that it turns in shared memory.
NIBBLE_KERNEL(256, 1)
void transpose_kernel(const float* in, float* out, unsigned rows, unsigned cols) {
  NIBBLE_SHARED(float, tile, (kTransposeTile * (kTransposeTile + 1)));
  const unsigned row = blockIdx.y * kTransposeTile + threadIdx.y, col = blockIdx.x * kTransposeTile + threadIdx.x;
  const bool inside = row < rows && col < cols;
  if (inside) tile[threadIdx.y * (kTransposeTile + 1) + threadIdx.x] = in[row * cols + col];
  __syncthreads();
  const unsigned to_row = blockIdx.x * kTransposeTile + threadIdx.y, to_col = blockIdx.y * kTransposeTile + threadIdx.x;
  if (to_row < cols && to_col < rows)
    out[to_row * rows + to_col] = tile[threadIdx.x * (kTransposeTile + 1) + threadIdx.y];
}

/// *out += Σ x, block after block in the order of their numbers, so that the sum's roundings are always the same.
/// `turn` begins as 0 and counts the blocks that are done.
NIBBLE_KERNEL(128, 1)
void ordered_sum_kernel(const float* x, unsigned n, float* out, int* turn) {
  NIBBLE_SHARED(float, partial, 4);
  float sum = 0;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
  const unsigned mask = 0xffffffffu;
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(mask, sum, d);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) sum += partial[warp];
  while (load_acquire(turn) != static_cast<int>(blockIdx.x)) spin_hint();
  *out += sum;
  add_release(turn, 1);
}

/// The sixteen bytes that each thread's neighbour copied to shared memory: two stages, as in a pipeline.
NIBBLE_KERNEL(32, 1)
void neighbour_copy_kernel(const uint4* in, uint4* out, unsigned tiles) {
  NIBBLE_DYNAMIC_SHARED(shared);
  auto* const stages = reinterpret_cast<uint4*>(shared);
  const unsigned thread = threadIdx.x, neighbour = (thread + 1) % blockDim.x;
  cp_async_16(&stages[thread], &in[thread]);
  cp_async_commit();
  for (unsigned t = 0; t < tiles; ++t) {
    if (t + 1 < tiles) cp_async_16(&stages[(t + 1) % 2 * blockDim.x + thread], &in[(t + 1) * blockDim.x + thread]);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    out[t * blockDim.x + thread] = stages[t % 2 * blockDim.x + neighbour];
    __syncthreads();
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
