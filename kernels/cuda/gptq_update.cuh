#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/gptq_update.h"
#include "nibble/scheme/affine.h"

namespace nibble::cuda {

inline constexpr unsigned kGptqThreads = 64;

/// Scale and zero point of the group that begins at position `first`: of values that are in shared memory as far as the
/// step goes, and final in global memory beyond.
NIBBLE_DEVICE AffineParams fit_group(const GptqStep& s, const GptqBuffers& b, std::size_t first, std::size_t row,
                                     const float* own) {
  const std::size_t last = first + s.group_size < s.cols ? first + s.group_size : s.cols;
  Range range{};
  for (std::size_t i = first; i < last; ++i) {
    const float w = i < s.end ? own[(i - s.begin) * kGptqThreads] : __ldg(b.weights + (s.cols - 1 - i) * s.rows + row);
    if (i == first) range = {w, w};
    range.min = w < range.min ? w : range.min;
    range.max = w > range.max ? w : range.max;
  }
  return s.symmetric ? fit_symmetric(range, s.bits, SymmetricRange::full, s.scale_type)
                     : fit_asymmetric(range, s.bits, true, s.scale_type);
}

/// A thread owns a row, and a column of shared memory that no other thread touches.
NIBBLE_KERNEL(kGptqThreads, 1) void gptq_update_kernel(GptqStep s, GptqBuffers b) {
  NIBBLE_DYNAMIC_SHARED(shared);
  const std::size_t row = std::size_t{blockIdx.x} * kGptqThreads + threadIdx.x;
  if (row >= s.rows) return;
  float* own = reinterpret_cast<float*>(shared) + threadIdx.x;
  for (std::size_t i = s.begin; i < s.end; ++i)
    own[(i - s.begin) * kGptqThreads] = __ldg(b.weights + (s.cols - 1 - i) * s.rows + row);

  AffineParams params{};
  if (s.begin % s.group_size != 0) {  // the group goes on
    const std::size_t at = s.begin / s.group_size * s.rows + row;
    params = {b.scales[at], b.zero_points[at]};
  }
  const auto top = static_cast<float>((1 << s.bits) - 1);
  double loss = 0;
  for (std::size_t i = s.begin; i < s.end; ++i) {
    if (i % s.group_size == 0) {
      params = fit_group(s, b, i, row, own);
      const std::size_t at = i / s.group_size * s.rows + row;
      b.scales[at] = params.scale;
      b.zero_points[at] = params.zero_point;
    }
    const float* u = b.inverse + (s.cols - 1 - i) * s.cols + s.cols - 1;  // U_ij at u[−j]
    const auto zero = static_cast<float>(params.zero_point);
    const float w = own[(i - s.begin) * kGptqThreads], low = -zero, high = top - zero;
    float t = w / params.scale;
    t = t > low ? t : low;
    t = t < high ? t : high;
    const std::int32_t q = round_half_even(t);
    const float e = (w - static_cast<float>(q) * params.scale) / __ldg(u - i);
    b.codes[(s.cols - 1 - i) * s.rows + row] = static_cast<std::uint8_t>(q + params.zero_point);
    b.errors[(s.end - 1 - i) * s.rows + row] = e;
    loss += static_cast<double>(e) * static_cast<double>(e);
#if NIBBLE_MUTANT == 80
    for (std::size_t j = i + 2; j < s.end; ++j) {
#else
    for (std::size_t j = i + 1; j < s.end; ++j) {
#endif
      float& to = own[(j - s.begin) * kGptqThreads];
#if NIBBLE_MUTANT == 81
      to -= e * __ldg(b.inverse + (s.cols - 1 - j) * s.cols + s.cols - 1 - i);
#else
      to -= e * __ldg(u - j);
#endif
    }
  }
#if NIBBLE_MUTANT == 82
  b.losses[row] = loss;
#else
  b.losses[row] += loss;
#endif
}

}  // namespace nibble::cuda
