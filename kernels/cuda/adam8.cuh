// The kernel of adam8.h.
#pragma once

#include "kernels/cuda/adam8.h"
#include "kernels/cuda/canonical.cuh"
#include "kernels/cuda/reduce.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kAdamWarps = 8;
inline constexpr unsigned kAdamThreads = kAdamWarps * kWarp;
static_assert(kAdam8Block == kWarp * kRun && kAdamThreads == 256);

/// Both maps: ascending, so that a code is a rank. A kernel's parameter.
struct AdamMaps {
  float signed_value[256], unsigned_value[256];
};

/// Codebook::encode_scaled of a map whose codes are ranks, over thresholds in shared memory.
NIBBLE_DEVICE std::uint8_t map_code(const float* threshold, float scaled) {
  unsigned below = 0;
#pragma unroll
  for (unsigned width = 128; width > 0; width /= 2)
    if (scaled > threshold[below + width - 1]) below += width;
  return static_cast<std::uint8_t>(below);
}

template <class T>
NIBBLE_KERNEL(kAdamThreads, 3)
void adam8_kernel(T* parameters, const T* gradients, std::size_t count, Adam8State state, AdamStep step,
                  AdamMaps maps) {
  NIBBLE_SHARED(float, signed_value, 256);
  NIBBLE_SHARED(float, unsigned_value, 256);
  NIBBLE_SHARED(float, signed_threshold, 256);
  NIBBLE_SHARED(float, unsigned_threshold, 256);
  {
    const unsigned i = threadIdx.x, next = i < 255 ? i + 1 : i;  // the last threshold is never looked at
    signed_value[i] = maps.signed_value[i];
    unsigned_value[i] = maps.unsigned_value[i];
    signed_threshold[i] = (maps.signed_value[i] + maps.signed_value[next]) / 2;
    unsigned_threshold[i] = (maps.unsigned_value[i] + maps.unsigned_value[next]) / 2;
  }
  __syncthreads();
  const std::size_t block = std::size_t{blockIdx.x} * kAdamWarps + threadIdx.x / kWarp;
  if (block * kAdam8Block >= count) return;  // a whole warp
  const unsigned lane = threadIdx.x % kWarp;
  const std::size_t at = block * kAdam8Block + lane * kRun;
  const int n = at >= count ? 0 : count - at < kRun ? static_cast<int>(count - at) : kRun;

  float p[kRun], g[kRun], m[kRun], v[kRun];
  load_run<false>(parameters + at, n, p);
  load_run(gradients + at, n, g);
  const std::uint64_t m_word = load_codes<8, false>(state.m_codes + at, n);
  const std::uint64_t v_word = load_codes<8, false>(state.v_codes + at, n);
  const float m_absmax = state.m_absmax[block], v_absmax = state.v_absmax[block];
  float m_most = 0, v_most = 0;
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    m[i] = v[i] = 0;
    if (i >= n) continue;
    m[i] = signed_value[code_at<8>(m_word, i)] * m_absmax;
    v[i] = unsigned_value[code_at<8>(v_word, i)] * v_absmax;
    adam_update(step, g[i], m[i], v[i], p[i]);
    m_most = larger(magnitude(m[i]), m_most);
    v_most = larger(v[i], v_most);
  }
  m_most = stored_absmax(reduce_team(m_most, kWarp, larger));
  v_most = stored_absmax(reduce_team(v_most, kWarp, larger));
  const float m_factor = inverse_absmax(m_most), v_factor = inverse_absmax(v_most);
  std::uint64_t m_new = 0, v_new = 0;
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const std::uint8_t code = map_code(signed_threshold, m[i] * m_factor);
    const std::uint8_t m_code = adam8_signed_code(code, signed_value[code], m[i]);
    m_new |= static_cast<std::uint64_t>(m_code) << (8 * i);
    v_new |= static_cast<std::uint64_t>(map_code(unsigned_threshold, v[i] * v_factor)) << (8 * i);
  }
  store_run(parameters + at, n, p);
  store_codes(state.m_codes + at, n, 8, m_new);
  store_codes(state.v_codes + at, n, 8, v_new);
  __syncwarp();  // every lane has read the old absmax
  if (lane == 0) {
    state.m_absmax[block] = m_most;
    state.v_absmax[block] = v_most;
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
