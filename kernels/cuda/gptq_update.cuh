#pragma once

#include <limits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/gptq_update.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// So that a position of a block takes 256 bytes of shared memory, and the longest step 64 KiB: what Turing has.
template <class T>
inline constexpr unsigned kGptqThreads = 256 / sizeof(T);

NIBBLE_DEVICE float nearest(float t) { return static_cast<float>(round_half_even(t)); }
/// Adding and subtracting 1.5·2^52 rounds to the nearest integer, half to even; what comes in is no product.
NIBBLE_DEVICE double nearest(double t) { return (t + 6755399441055744.0) - 6755399441055744.0; }

/// The grid of n values, with or without a search for the least error. Values are rounded to floats for it.
template <class Values>
NIBBLE_DEVICE AffineParams fit_grid(const GptqStep& s, std::size_t n, const Values& value) {
  Range range{value(0), value(0)};
  for (std::size_t k = 1; k < n; ++k) {
    const float x = value(k);
    range.min = x < range.min ? x : range.min;
    range.max = x > range.max ? x : range.max;
  }
  AffineParams best = grid_of(range, s.rule);
  if (!s.grid_search) return best;
  const auto top = static_cast<float>((1 << s.rule.bits) - 1);
  float least = std::numeric_limits<float>::infinity();
  for (int step = 0; step < kShrinkings; ++step) {
    const float p = shrinking(step);
    const AffineParams tried = grid_of({range.min * p, range.max * p}, s.rule);
    float error = 0;
    for (std::size_t k = 0; k < n && (k % 16 != 0 || error < least); ++k)
      error += search_error(value(k), tried.scale, static_cast<float>(tried.zero_point), top);
    if (!(error < least)) continue;
    least = error;
    best = tried;
  }
  return best;
}

template <class T>
NIBBLE_DEVICE void keep_grid(const GptqStep& s, const GptqBuffers<T>& b, std::size_t group, std::size_t row,
                             AffineParams params) {
  b.scales[group * s.rows + row] = params.scale;
  b.zero_points[group * s.rows + row] = params.zero_point;
}

/// A thread has a row of a group.
template <class T>
NIBBLE_KERNEL(kGptqThreads<T>, 1)
void gptq_fit_kernel(GptqStep s, GptqBuffers<T> b) {
  const std::size_t row = std::size_t{blockIdx.x} * kGptqThreads<T> + threadIdx.x;
  if (row >= s.rows) return;
  for (std::size_t g = blockIdx.y; g < s.groups; g += gridDim.y) {
    const std::int32_t* members = b.members + b.first_member[g];
    const auto n = static_cast<std::size_t>(b.first_member[g + 1] - b.first_member[g]);
    keep_grid(s, b, g, row, fit_grid(s, n, [&](std::size_t k) {
                const std::size_t position = static_cast<std::size_t>(__ldg(members + k));
                return static_cast<float>(__ldg(b.weights + (s.cols - 1 - position) * s.rows + row));
              }));
  }
}

/// The grid of the group that begins at position `first`: of values that are in shared memory as far as the step goes,
/// and final in global memory beyond.
template <class T>
NIBBLE_DEVICE AffineParams fit_in_step(const GptqStep& s, const GptqBuffers<T>& b, std::size_t first, std::size_t row,
                                       const T* own) {
  const std::int32_t group = b.group[first];
  const auto n = static_cast<std::size_t>(b.first_member[group + 1] - b.first_member[group]);
  return fit_grid(s, n, [&](std::size_t k) {
    const std::size_t i = first + k;
    return static_cast<float>(i < s.end ? own[(i - s.begin) * kGptqThreads<T>]
                                        : __ldg(b.weights + (s.cols - 1 - i) * s.rows + row));
  });
}

/// A thread owns a row, and a column of shared memory that no other thread touches.
template <class T>
NIBBLE_KERNEL(kGptqThreads<T>, 1)
void gptq_update_kernel(GptqStep s, GptqBuffers<T> b) {
  NIBBLE_DYNAMIC_SHARED(shared);
  constexpr std::size_t pitch = kGptqThreads<T>;
  const std::size_t row = std::size_t{blockIdx.x} * pitch + threadIdx.x;
  if (row >= s.rows) return;
  T* own = reinterpret_cast<T*>(shared) + threadIdx.x;
  for (std::size_t i = s.begin; i < s.end; ++i)
    own[(i - s.begin) * pitch] = __ldg(b.weights + (s.cols - 1 - i) * s.rows + row);
  const auto begins_group = [&](std::size_t i) { return i == 0 || b.group[i] != b.group[i - 1]; };
  if (s.grids == GptqGrids::at_step)
    for (std::size_t i = s.begin; i < s.end; ++i)
      if (begins_group(i)) keep_grid(s, b, static_cast<std::size_t>(b.group[i]), row, fit_in_step(s, b, i, row, own));

  AffineParams params{};
  const T top = static_cast<T>((1 << s.rule.bits) - 1);
  double loss = 0;
  for (std::size_t i = s.begin; i < s.end; ++i) {
    const auto group = static_cast<std::size_t>(b.group[i]);
    if (s.grids == GptqGrids::at_group && begins_group(i)) {
      params = fit_in_step(s, b, i, row, own);
      keep_grid(s, b, group, row, params);
    } else if (i == s.begin || begins_group(i)) {
      params = {b.scales[group * s.rows + row], b.zero_points[group * s.rows + row]};
    }
    const T* u = b.inverse + (s.cols - 1 - i) * s.cols + s.cols - 1;  // U_ij at u[−j]
    const T zero = static_cast<T>(params.zero_point);
    const T w = own[(i - s.begin) * pitch], low = -zero, high = top - zero;
    T t = w / static_cast<T>(params.scale);
    t = t > low ? t : low;
    t = t < high ? t : high;
    t = nearest(t);
    const T e = (w - static_cast<T>(static_cast<float>(t) * params.scale)) / __ldg(u - i);
    b.codes[(s.cols - 1 - i) * s.rows + row] =
        static_cast<std::uint8_t>(static_cast<std::int32_t>(t) + params.zero_point);
    b.errors[(s.end - 1 - i) * s.rows + row] = e;
    loss += static_cast<double>(e) * static_cast<double>(e);
    for (std::size_t j = i + 1; j < s.end; ++j) {
      T& to = own[(j - s.begin) * pitch];
      to -= e * __ldg(u - j);
    }
    if (b.drift == nullptr) continue;
    b.currents[(s.end - 1 - i) * s.rows + row] = w;
    const T* p = b.drift + (u - b.inverse);
    for (std::size_t j = i + 1; j < s.end; ++j) own[(j - s.begin) * pitch] += w * __ldg(p - j);
  }
  b.losses[row] += loss;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
