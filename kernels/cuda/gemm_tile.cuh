// What the tensor-core products share: activations in shared memory, and how results are written.
#pragma once

#include "kernels/cuda/canonical.cuh"
#include "kernels/cuda/gemm_layout.h"
#include "kernels/cuda/reduce.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kGemmRowBytes = 128;   ///< Of activations in a stage: 64 of 16 bits, or 128 of 8.
inline constexpr unsigned kGemmColumnWarps = 4;  ///< Warps side by side, of 32 outputs each.
inline constexpr unsigned kGemmFragments = 4;    ///< Of 8 outputs each, in a warp.

/// Where a chunk of a row of activations lies in a stage.
NIBBLE_DEVICE unsigned swizzled(unsigned row, unsigned chunk) { return row * kGemmRowBytes + (chunk ^ (row % 8)) * 16; }

/// Eight values from shared memory, aligned to 16 bytes, as float.
template <class T>
NIBBLE_DEVICE void load_eight(const T* at, float (&out)[8]) {
  const auto* const quads = reinterpret_cast<const uint4*>(at);
#pragma unroll
  for (unsigned i = 0; i < sizeof(T) / 2; ++i) {
    const uint4 quad = quads[i];
    const std::uint32_t words[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
    for (unsigned j = 0; j < 4; ++j)
      if constexpr (sizeof(T) == 4) {
        out[4 * i + j] = std::bit_cast<float>(words[j]);
      } else {
        out[2 * j] = upcast(T::from_bits(static_cast<std::uint16_t>(words[j])));
        out[2 * j + 1] = upcast(T::from_bits(static_cast<std::uint16_t>(words[j] >> 16)));
      }
  }
}

/// One value or two neighbouring ones, where they lie within the row.
NIBBLE_DEVICE void store_pair(void* y, DType type, std::size_t at, std::size_t left, float first, float second) {
  if (type == DType::f32) {
    auto* const to = static_cast<float*>(y) + at;
    if (left > 1 && is_aligned(to, 8)) {
      *reinterpret_cast<float2*>(to) = float2{first, second};
      return;
    }
    to[0] = first;
    if (left > 1) to[1] = second;
    return;
  }
  const std::uint16_t a = type == DType::f16 ? narrow<f16>(first).bits : narrow<bf16>(first).bits;
  const std::uint16_t b = type == DType::f16 ? narrow<f16>(second).bits : narrow<bf16>(second).bits;
  auto* const to = static_cast<std::uint16_t*>(y) + at;
  if (left > 1 && is_aligned(to, 4)) {
    *reinterpret_cast<std::uint32_t*>(to) = a | static_cast<std::uint32_t>(b) << 16;
    return;
  }
  to[0] = a;
  if (left > 1) to[1] = b;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
